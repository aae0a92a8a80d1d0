"""What a broker's presence, leases and control messages have to be."""

from functools import partial

from ...brokers.base import Departure
from .engines import Engine, Instance


class Instances:
    """Members, what becomes of those whose instance crashed, and messages between instances."""

    # Presence

    async def test_a_members_first_connection_and_last_are_told(self, one: Instance, other: Instance) -> None:
        assert await one.broker.enter("room", "ada", "1", b"ada")
        assert not await other.broker.enter("room", "ada", "2", b"ada")
        assert await other.broker.enter("room", "bob", "3", b"bob")
        assert not await one.broker.leave("room", "ada", "1")
        assert await other.broker.leave("room", "ada", "2")
        assert await other.broker.leave("room", "bob", "3")
        assert await one.broker.enter("room", "ada", "4", b"ada")

    async def test_members_are_the_same_on_every_instance(self, one: Instance, other: Instance) -> None:
        await one.broker.enter("room", "ada", "1", b"ada's")
        await other.broker.enter("room", "bob", "2", b"bob's")
        await other.broker.enter("elsewhere", "eve", "3", b"eve's")
        expected = {"ada": b"ada's", "bob": b"bob's"}
        assert await one.broker.members("room") == await other.broker.members("room") == expected

    async def test_a_member_has_the_details_of_their_first_connection_that_is_left(
        self, one: Instance, other: Instance
    ) -> None:
        await one.broker.enter("room", "ada", "1", b"first")
        await other.broker.enter("room", "ada", "2", b"second")
        assert await one.broker.members("room") == {"ada": b"first"}
        await one.broker.leave("room", "ada", "1")
        assert await one.broker.members("room") == {"ada": b"second"}

    async def test_to_leave_where_one_is_not_tells_nothing(self, one: Instance) -> None:
        assert not await one.broker.leave("room", "ada", "1")
        await one.broker.enter("room", "ada", "1", b"")
        assert not await one.broker.leave("room", "bob", "1")
        assert not await one.broker.leave("room", "ada", "2")
        assert not await one.broker.leave("elsewhere", "ada", "1")
        assert await one.broker.members("room") == {"ada": b""}
        assert await one.broker.leave("room", "ada", "1")
        assert not await one.broker.leave("room", "ada", "1")

    async def test_a_room_that_nobody_is_in_has_no_members(self, one: Instance) -> None:
        assert await one.broker.members("room") == {}
        await one.broker.enter("room", "ada", "1", b"")
        await one.broker.leave("room", "ada", "1")
        assert await one.broker.members("room") == {}

    async def test_the_members_of_an_instance_that_stops_are_gone(
        self, one: Instance, other: Instance
    ) -> None:
        await one.broker.enter("room", "ada", "1", b"ada")
        await one.broker.enter("room", "bob", "2", b"bob")
        await other.broker.enter("room", "bob", "3", b"bob too")
        await one.broker.stop()
        assert await other.broker.members("room") == {"bob": b"bob too"}

    # Leases

    async def test_members_of_a_crashed_instance_stay_for_the_lease_and_depart_once(
        self, engine: Engine
    ) -> None:
        one, other, crashed = [await engine.open() for _ in range(3)]
        await crashed.broker.enter("a", "ada", "1", b"ada")
        await crashed.broker.enter("b", "ada", "1", b"ada")
        await crashed.broker.enter("b", "bob", "2", b"bob")
        await one.broker.enter("b", "eve", "3", b"eve")
        await engine.crash(crashed)
        await engine.pass_time(engine.lease * 0.6)
        assert (await one.broker.renew()).departures == []
        assert (await other.broker.renew()).departures == []
        assert set(await other.broker.members("b")) == {"ada", "bob", "eve"}
        await engine.pass_time(engine.lease * 0.6)
        renewals = [await instance.broker.renew() for instance in (other, one, other)]
        departures = [departure for renewal in renewals for departure in renewal.departures]
        assert sorted(departures) == [
            Departure("a", "ada", b"ada"),
            Departure("b", "ada", b"ada"),
            Departure("b", "bob", b"bob"),
        ]
        assert await one.broker.members("a") == {}
        assert await one.broker.members("b") == {"eve": b"eve"}

    async def test_who_is_still_there_on_another_instance_has_not_departed(
        self, engine: Engine, one: Instance
    ) -> None:
        crashed = await engine.open()
        await crashed.broker.enter("room", "ada", "1", b"first")
        await one.broker.enter("room", "ada", "2", b"second")
        await engine.crash(crashed)
        await engine.pass_time(engine.lease * 1.5)
        assert (await one.broker.renew()).departures == []
        assert await one.broker.members("room") == {"ada": b"second"}
        assert await one.broker.leave("room", "ada", "2")

    async def test_who_was_on_two_crashed_instances_departs_once(self, engine: Engine, one: Instance) -> None:
        for connection in ("1", "2"):
            crashed = await engine.open()
            await crashed.broker.enter("room", "ada", connection, b"ada")
            await engine.crash(crashed)
        await engine.pass_time(engine.lease * 1.5)
        assert (await one.broker.renew()).departures == [Departure("room", "ada", b"ada")]
        assert (await one.broker.renew()).departures == []

    async def test_who_departed_comes_as_new(self, engine: Engine, one: Instance) -> None:
        crashed = await engine.open()
        await crashed.broker.enter("room", "ada", "1", b"ada")
        await engine.crash(crashed)
        await engine.pass_time(engine.lease * 1.5)
        await one.broker.renew()
        assert not await one.broker.leave("room", "ada", "1")
        assert await one.broker.enter("room", "ada", "2", b"ada")

    async def test_an_instance_that_renews_in_time_keeps_its_members(
        self, engine: Engine, one: Instance, other: Instance
    ) -> None:
        await one.broker.enter("room", "ada", "1", b"ada")
        for _ in range(5):
            await engine.pass_time(engine.lease * 0.6)
            assert (await one.broker.renew()).departures == []
            assert (await other.broker.renew()).departures == []
        assert await other.broker.members("room") == {"ada": b"ada"}

    async def test_an_instance_that_stopped_has_no_departures_left_to_others(
        self, engine: Engine, one: Instance, other: Instance
    ) -> None:
        await one.broker.enter("room", "ada", "1", b"ada")
        await one.broker.stop()
        await engine.pass_time(engine.lease * 1.5)
        assert (await other.broker.renew()).departures == []

    async def test_an_instance_that_was_taken_for_gone_is_told_so_once(
        self, engine: Engine, one: Instance, other: Instance
    ) -> None:
        await one.broker.enter("room", "ada", "1", b"ada")
        assert not (await one.broker.renew()).forgotten
        for _ in range(3):
            await engine.pass_time(engine.lease * 0.6)
            await other.broker.renew()
        assert await other.broker.members("room") == {}
        assert (await one.broker.renew()).forgotten
        assert not (await one.broker.renew()).forgotten
        assert await one.broker.enter("room", "ada", "1", b"ada")
        assert await other.broker.members("room") == {"ada": b"ada"}

    async def test_instances_are_those_that_take_part(
        self, engine: Engine, one: Instance, other: Instance
    ) -> None:
        crashed = await engine.open()
        assert sorted(await one.broker.instances()) == sorted([one.name, other.name, crashed.name])
        await engine.crash(crashed)
        for _ in range(3):
            await engine.pass_time(engine.lease * 0.6)
            await one.broker.renew()
            await other.broker.renew()
        assert sorted(await other.broker.instances()) == sorted([one.name, other.name])
        await other.broker.stop()
        assert await one.broker.instances() == [one.name]

    # Control messages

    async def test_a_control_message_to_all_reaches_every_instance_once(
        self, engine: Engine, one: Instance, other: Instance
    ) -> None:
        third = await engine.open()
        await one.broker.send_control(None, b"for all")
        await other.broker.send_control(third.name, b"for the third")
        for instance in (one, other, third):
            await instance.inbox.until(partial(instance.inbox.controls.__contains__, b"for all"))
        await third.inbox.until(lambda: len(third.inbox.controls) == 2)
        assert one.inbox.controls == other.inbox.controls == [b"for all"]

    async def test_a_control_message_reaches_the_one_instance_of_its_name(
        self, engine: Engine, one: Instance, other: Instance
    ) -> None:
        third = await engine.open()
        await one.broker.send_control(other.name, b"for the other")
        await one.broker.send_control(one.name, b"for itself")
        await other.inbox.until(lambda: bool(other.inbox.controls))
        await one.inbox.until(lambda: bool(one.inbox.controls))
        assert other.inbox.controls == [b"for the other"]
        assert one.inbox.controls == [b"for itself"]
        assert third.inbox.controls == []
        assert one.inbox.deliveries == other.inbox.deliveries == []

    async def test_control_messages_arrive_in_order(self, one: Instance, other: Instance) -> None:
        for number in range(10):
            await one.broker.send_control(other.name, b"%d" % number)
        await other.inbox.until(lambda: len(other.inbox.controls) >= 10)
        assert other.inbox.controls == [b"%d" % number for number in range(10)]

    async def test_a_control_message_to_an_instance_that_is_gone_goes_nowhere(
        self, one: Instance, other: Instance
    ) -> None:
        await other.broker.stop()
        await one.broker.send_control(other.name, b"late")
        await one.broker.send_control("nobody", b"lost")
        await one.broker.send_control(one.name, b"here")
        await one.inbox.until(lambda: bool(one.inbox.controls))
        assert one.inbox.controls == [b"here"]
        assert other.inbox.controls == []
