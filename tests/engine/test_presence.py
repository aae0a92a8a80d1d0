import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chat_room import nothing_more
from fake_transport import fake_connection
from hubbub import ConfigurationError, Connection, Hubbub, Member, Settings, Unavailable
from hubbub.brokers.base import Departure, Renewal
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.presence import Presence, Shown
from hubbub.protocol.codecs import pack
from hubbub.testing.serving import serving as serving_here
from instances import side_by_side
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


def lobby(broker: MemoryBroker | None = None) -> Hubbub:
    hub = Hubbub(Settings(lease=0.6), broker=broker)
    hub.room("chat/{name}", presence=True)

    @hub.authenticate
    def who(connection: Connection) -> str | None:
        name = connection.request.query_params.get("name")
        connection.info = {"shown": name.title()} if name else None
        return name

    return hub


async def members(client) -> list[dict]:
    answer = await client.ask(type="$presence", room="chat/lobby")
    return answer["data"]["members"]


async def test_members_see_who_is_there_and_who_comes_and_goes(start):
    url = start(lobby()).url
    async with talk(f"{url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        async with talk(f"{url}/?name=bob") as bob:
            await bob.join("chat/lobby")
            joined = {
                "type": "$joined",
                "room": "chat/lobby",
                "data": [{"user": "bob", "info": {"shown": "Bob"}}],
            }
            assert await ada.receive() == joined
            assert [member["user"] for member in await members(bob)] == ["ada", "bob"]
        assert await ada.receive() == {**joined, "type": "$left"}
        assert await members(ada) == [{"user": "ada", "info": {"shown": "Ada"}}]


async def test_a_user_comes_and_goes_once_however_many_tabs(start):
    url = start(lobby()).url
    async with talk(f"{url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        async with talk(f"{url}/?name=bob") as last:
            async with talk(f"{url}/?name=bob") as first:
                await first.join("chat/lobby")
                await last.join("chat/lobby")
                assert (await ada.receive())["type"] == "$joined"
            assert len(await members(ada)) == 2
            await last.ask(type="$leave", room="chat/lobby")
            assert (await ada.receive())["type"] == "$left"
        assert (await ada.ask(type="$ping"))["type"] == "$pong"


async def test_a_guest_is_shown_under_a_name_of_its_own(start):
    async with talk(start(lobby()).url) as client:
        await client.join("chat/lobby")
        (member,) = await members(client)
        assert member == {"user": f"guest:{client.welcome['connection'][:8]}"}


async def test_members_on_other_instances_are_members_too(start):
    store = MemoryStore()
    url = start(side_by_side(one=lobby(MemoryBroker(store)), other=lobby(MemoryBroker(store)))).url
    async with talk(f"{url}/one/?name=ada") as ada, talk(f"{url}/other/?name=bob") as bob:
        await ada.join("chat/lobby")
        await bob.join("chat/lobby")
        assert (await ada.receive())["data"] == [{"user": "bob", "info": {"shown": "Bob"}}]
        assert {member["user"] for member in await members(bob)} == {"ada", "bob"}


async def test_the_members_of_an_instance_that_is_gone_leave_within_the_lease(serve):
    store = MemoryStore(lease=0.6)
    async with talk(f"{serve(lobby(MemoryBroker(store))).url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        crashed = MemoryBroker(store)

        class Nobody:
            def deliver(self, room, entry, epoch): ...
            def control(self, payload): ...

        await crashed.start(Nobody())
        await crashed.enter("chat/lobby", "bob", "1", b"\x81\xa4user\xa3bob")
        assert len(await members(ada)) == 2
        assert await ada.receive_type("$left") == {
            "type": "$left",
            "room": "chat/lobby",
            "data": [{"user": "bob"}],
        }


async def test_the_application_can_ask_who_is_there(serve):
    hub, told = lobby(), Told()

    @hub.rooms[0].on_join
    async def tell() -> None: ...

    @hub.rooms[0].on_leave
    async def after() -> None:
        told(await hub.rooms[0](name="lobby").members())

    url = serve(hub).url
    async with talk(f"{url}/?name=ada") as ada, talk(f"{url}/?name=bob") as bob:
        await ada.join("chat/lobby")
        await bob.join("chat/lobby")
        await bob.ask(type="$leave", room="chat/lobby")
        assert await told.next() == [Member("ada", {"shown": "Ada"})]


async def test_where_presence_is_not_kept_asking_is_an_error_that_says_how_to():
    hub = Hubbub()
    rooms = hub.room("plain")
    async with hub.lifespan():
        with pytest.raises(ConfigurationError, match=r"declare hub.room\('plain', presence=True\)"):
            await rooms().members()


async def test_a_room_is_told_of_many_who_come_at_once_in_few_messages(start):
    url = start(lobby()).url
    async with talk(f"{url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        async with asyncio.TaskGroup() as tasks:

            async def come(name: str) -> None:
                async with talk(f"{url}/?name={name}") as client:
                    await client.join("chat/lobby")
                    await all_here.wait()

            all_here = asyncio.Event()
            names = {f"user{number}" for number in range(40)}
            for name in names:
                tasks.create_task(come(name))
            seen: list[list[str]] = []
            while sum(map(len, seen)) < 40:
                envelope = await ada.receive()
                assert envelope["type"] == "$joined"
                seen.append([member["user"] for member in envelope["data"]])
            all_here.set()
        assert len(seen) < 40
        assert {name for users in seen for name in users} == names
        gone: list[str] = []
        while len(gone) < 40:
            gone += [member["user"] for member in (await ada.receive_type("$left"))["data"]]
        assert set(gone) == names


class Frozen(MemoryBroker):
    """As one whose process is stopped: its lease is not renewed as long as `frozen` is set."""

    frozen = False

    async def renew(self) -> Renewal:
        return Renewal([], forgotten=False) if self.frozen else await super().renew()


async def test_the_members_of_an_instance_that_hangs_leave_and_come_back_with_it(start):
    store = MemoryStore(lease=0.6)
    brokers = {name: Frozen(store, instance=name) for name in ("one", "two", "three")}
    url = start(side_by_side(**{name: lobby(broker) for name, broker in brokers.items()})).url
    async with (
        talk(f"{url}/one/?name=ada") as ada,
        talk(f"{url}/two/?name=bob") as bob,
        talk(f"{url}/three/?name=cleo") as cleo,
    ):
        for client in (ada, bob, cleo):
            await client.join("chat/lobby")
        brokers["three"].frozen = True
        left = await ada.receive_type("$left")
        assert [member["user"] for member in left["data"]] == ["cleo"]
        assert {member["user"] for member in await members(bob)} == {"ada", "bob"}
        brokers["three"].frozen = False
        joined = await ada.receive_type("$joined")
        assert joined["data"] == [{"user": "cleo", "info": {"shown": "Cleo"}}]
        assert {member["user"] for member in await members(bob)} == {"ada", "bob", "cleo"}


async def test_members_are_entered_again_when_the_engine_was_emptied(start):
    store = MemoryStore(lease=0.6)
    url = start(side_by_side(one=lobby(MemoryBroker(store)), other=lobby(MemoryBroker(store)))).url
    async with talk(f"{url}/one/?name=ada") as ada, talk(f"{url}/other/?name=bob") as bob:
        await ada.join("chat/lobby")
        await bob.join("chat/lobby")
        await ada.receive_type("$joined")
        store.instances.clear()
        for stream in store.streams.values():
            stream.members.clear()
        users: set[str] = set()
        async with asyncio.timeout(5):
            while users != {"ada", "bob"}:
                await asyncio.sleep(0.05)
                users = {member["user"] for member in await members(ada)}


class Lossy(MemoryBroker):
    """Fails to take back a member while `fails` is set; `departed` are the next renewal's."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.departed: list[Departure] = []
        self.forgotten = False
        self.left = 0

    async def leave(self, room: str, member: str, connection: str) -> bool:
        if self.fails:
            raise Unavailable("The broker is away.")
        self.left += 1
        return await super().leave(room, member, connection)

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        if self.fails:
            raise Unavailable("The broker is away.")
        return await super().enter(room, member, connection, details)

    async def renew(self) -> Renewal:
        renewal = Renewal(self.departed, self.forgotten)
        self.departed, self.forgotten = [], False
        return renewal


@asynccontextmanager
async def presence_at(broker: MemoryBroker, here: list[Shown] | None = None) -> AsyncIterator[Presence]:
    presence = Presence(broker, lambda room: True, lambda: here or [])
    presence.start()
    try:
        yield presence
    finally:
        await presence.stop()


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110  # the store has no event
            await asyncio.sleep(0.01)


async def test_who_could_not_be_taken_back_is_taken_back_after_a_renewal(logs):
    broker = Lossy()
    connection, _ = fake_connection()
    async with presence_at(broker) as presence:
        await presence.enter("room", Member("ada"), connection)
        broker.fails = True
        for _ in range(2):
            with pytest.raises(Unavailable):
                await presence.leave("room", Member("ada"), connection)
        await presence.renew()
        await logs.wait("presence", during="repair")
        assert await presence.members("room") == [Member("ada")]
        broker.fails = False
        await presence.renew()

        async def gone() -> bool:
            return await presence.members("room") == []

        await until(gone)
        assert broker.left == 1


async def test_who_has_come_again_is_not_taken_back_for_before():
    broker = Lossy()
    connection, _ = fake_connection()
    async with presence_at(broker) as presence:
        await presence.enter("room", Member("ada"), connection)
        broker.fails = True
        with pytest.raises(Unavailable):
            await presence.leave("room", Member("ada"), connection)
        broker.fails = False
        await presence.enter("room", Member("ada"), connection)
        await presence.make_up()
        assert await presence.members("room") == [Member("ada")]


async def test_what_is_owed_is_bounded_and_said(monkeypatch, logs):
    monkeypatch.setattr("hubbub.engine.presence.MAX_OWED", 3)
    broker = Lossy()
    async with presence_at(broker) as presence:
        broker.fails = True
        for number in range(5):
            connection, _ = fake_connection()
            with pytest.raises(Unavailable):
                await presence.leave("room", Member(str(number)), connection)
        broker.fails = False
        await presence.make_up()
        assert broker.left == 3
    assert len(logs.of("presence", owed=3)) == 1


async def test_those_of_an_instance_that_is_gone_are_announced_and_unreadable_ones_logged(start, logs):
    broker = Lossy()
    hub = lobby(broker)
    async with talk(f"{start(hub).url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        broker.departed = [
            Departure("chat/lobby", "bob", pack(Member("bob"))),
            Departure("chat/lobby", "eve", b"\xc1"),
            Departure("chat/lobby", "cleo", pack(Member("cleo", 1))),
        ]
        left = await ada.receive_type("$left")
        assert left["data"] == [{"user": "bob"}, {"user": "cleo", "info": 1}]
        await logs.wait("error", during="reading a member", user="eve")


async def test_a_member_whose_details_can_not_be_read_is_left_out_of_the_list(start, logs):
    broker = MemoryBroker()
    async with talk(f"{start(lobby(broker)).url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        await broker.enter("chat/lobby", "eve", "1", b"\xc1 no member")
        assert await members(ada) == [{"user": "ada", "info": {"shown": "Ada"}}]
        assert logs.of("error", during="reading a member", room="chat/lobby", user="eve")


async def test_who_leaves_while_they_are_entered_again_is_not_left_behind():
    broker = Lossy()
    connection, _ = fake_connection()
    here = True
    shown = Shown("room", Member("ada"), connection, lambda: here)

    class Slow(Lossy):
        async def enter(self, *arguments) -> bool:
            nonlocal here
            first = await super().enter(*arguments)
            here = False
            return first

    broker = Slow()
    async with presence_at(broker, [shown]) as presence:
        broker.forgotten = True
        await presence.renew()
        await presence.make_up()
        assert await presence.members("room") == []


async def test_who_comes_again_while_they_are_taken_back_is_there():
    class Overtaking(Lossy):
        """Takes its time to take a member back; what is asked meanwhile it does at once."""

        async def leave(self, *arguments) -> bool:
            if not self.fails:
                taking.set()
                await go_on.wait()
            return await super().leave(*arguments)

    taking, go_on = asyncio.Event(), asyncio.Event()
    broker = Overtaking()
    connection, _ = fake_connection()
    async with presence_at(broker) as presence:
        await presence.enter("room", Member("ada"), connection)
        broker.fails = True
        with pytest.raises(Unavailable):
            await presence.leave("room", Member("ada"), connection)
        broker.fails = False
        await presence.renew()
        await taking.wait()
        coming = asyncio.create_task(presence.enter("room", Member("ada"), connection))
        await asyncio.sleep(0)
        go_on.set()
        await coming

        async def taken_back() -> bool:
            return broker.left == 1

        await until(taken_back)
        assert await presence.members("room") == [Member("ada")]


async def test_who_leaves_while_entering_them_again_fails_is_not_left_behind():
    here = True

    class Unsure(Lossy):
        async def enter(self, *arguments) -> bool:
            nonlocal here
            await super().enter(*arguments)
            here = False
            raise Unavailable("The answer is lost.")

    broker = Unsure()
    connection, _ = fake_connection()
    shown = Shown("room", Member("ada"), connection, lambda: here)
    async with presence_at(broker, [shown]) as presence:
        broker.forgotten = True
        await presence.renew()

        async def gone() -> bool:
            return broker.left == 1 and await presence.members("room") == []

        await until(gone)


async def test_those_entered_again_are_announced_though_the_broker_blinks():
    class Blinking(Lossy):
        told: list[bytes]

        async def publish(self, room, payload, **options):
            if not self.told:
                self.told.append(b"failed")
                raise Unavailable("The broker blinks.")
            self.told.append(payload)
            return await super().publish(room, payload, **options)

    broker = Blinking()
    broker.told = []
    connection, _ = fake_connection()
    shown = Shown("room", Member("ada"), connection, lambda: True)
    async with presence_at(broker, [shown]) as presence:
        broker.forgotten = True
        await presence.renew()

        async def announced() -> bool:
            return any(b"$joined" in payload and b"ada" in payload for payload in broker.told)

        await until(announced)


async def test_entering_again_is_tried_until_it_is_done(logs):
    broker = Lossy()
    connections = [fake_connection()[0] for _ in range(200)]
    here = [Shown("room", Member(each.id), each, lambda: True) for each in connections]
    async with presence_at(broker, here) as presence:
        broker.forgotten = broker.fails = True
        await presence.renew()
        await logs.wait("presence", during="repair")
        broker.fails = False
        await presence.renew()
        await logs.wait("presence", entered_again=200)
        assert len(await presence.members("room")) == 200


async def test_an_instance_that_stops_announces_what_waits(serve):
    store = MemoryStore()
    one, other = lobby(MemoryBroker(store)), lobby(MemoryBroker(store))
    async with talk(f"{serve(one).url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        async with other.lifespan():
            presence = other._hub.running.presence
            for user in ("bob", "cleo"):
                connection, _ = fake_connection()
                await presence.enter("chat/lobby", Member(user), connection)
        assert (await ada.receive())["data"] == [{"user": "bob"}]
        assert (await ada.receive())["data"] == [{"user": "cleo"}]
        await nothing_more(ada)


async def test_a_hub_that_is_stopped_by_hand_has_its_members_leave_first(start, logs):
    class Slow(MemoryBroker):
        async def leave(self, *arguments) -> bool:
            await asyncio.sleep(0.05)
            return await super().leave(*arguments)

    store, told = MemoryStore(), Told()
    one, other = lobby(MemoryBroker(store)), lobby(Slow(store))
    other.on_shutdown(lambda: told("shutdown"))

    @other.rooms[0].on_leave
    async def left(connection: Connection) -> None:
        told(connection.user)

    async with talk(f"{start(one).url}/?name=ada") as ada:
        await ada.join("chat/lobby")
        # Served by whatever does not wait for its connections before it has the hub stopped.
        async with serving_here(other) as served, talk(f"{served.url}/?name=bob") as bob:
            await bob.join("chat/lobby")
            assert (await ada.receive())["type"] == "$joined"
            await other.stop()
            assert (await told.next(), await told.next()) == ("bob", "shutdown")
            assert (await ada.receive())["type"] == "$left"
    assert not logs.of("error")


async def test_one_that_leaves_later_than_the_hub_waits_is_told_of_its_end(serve, logs, monkeypatch):
    monkeypatch.setattr("hubbub.engine.hub.LEFT_WITHIN", 0.0)

    class Hanging(MemoryBroker):
        async def unsubscribe(self, room: str) -> None:
            await asyncio.wait((stopped,))
            raise Unavailable("The broker was left.")

    hub, told, stopped = lobby(Hanging()), Told(), asyncio.get_running_loop().create_future()
    hub.room("other", presence=True).on_leave(lambda: told("other"))
    hub.rooms[0].on_leave(lambda: told("chat"))
    async with serving_here(hub) as served, talk(f"{served.url}/?name=ada") as ada:
        for room in ("chat/lobby", "other"):
            await ada.join(room)
        await hub.stop()
        assert told.silent
        stopped.set_result(None)
        assert {await told.next(), await told.next()} == {"chat", "other"}
    assert not logs.of("error")


async def test_an_instance_stops_though_the_broker_answers_no_more(monkeypatch, logs):
    monkeypatch.setattr("hubbub.engine.presence.FLUSHED_WITHIN", 0.05)

    class Hanging(MemoryBroker):
        hangs = False

        async def publish(self, room, payload, **options):
            if self.hangs:
                await asyncio.Event().wait()
            return await super().publish(room, payload, **options)

    broker = Hanging()
    async with presence_at(broker) as presence:
        for user in ("ada", "bob"):
            connection, _ = fake_connection()
            await presence.enter("room", Member(user), connection)
        broker.hangs = True
    assert logs.of("presence", announcing="fails", during="stop")


async def test_a_broker_that_fails_in_an_unheard_of_way_is_logged_and_asked_again(logs):
    class Broken(Lossy):
        async def leave(self, *arguments) -> bool:
            self.left += 1
            raise ZeroDivisionError

    broker = Broken()
    connection, _ = fake_connection()
    async with presence_at(broker) as presence:
        with pytest.raises(ZeroDivisionError):
            await presence.leave("room", Member("ada"), connection)
        for count in (1, 2):
            await presence.renew()

            async def failed(count: int = count) -> bool:
                return len(logs.of("error", during="presence repair")) == count

            await until(failed)
        assert broker.left == 3
