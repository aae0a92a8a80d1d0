"""What outlives a broker's instances."""

import asyncio

import pytest

from .engines import KEEP, Engine, Instance, payloads, publish


class Durability:
    """The instances' common secret, and what is still there when all instances were killed."""

    async def test_the_secret_is_32_bytes_and_the_same_on_every_instance(
        self, one: Instance, other: Instance
    ) -> None:
        secrets = await asyncio.gather(*(instance.broker.secret() for instance in (one, other) * 3))
        assert len(secrets[0]) == 32
        assert set(secrets) == {secrets[0]}

    async def test_the_secret_outlives_the_instance_that_made_it(self, engine: Engine, one: Instance) -> None:
        secret = await one.broker.secret()
        other = await engine.open()
        await engine.crash(one)
        assert await other.broker.secret() == secret
        assert await (await engine.open()).broker.secret() == secret

    @pytest.fixture
    async def durable(self, engine: Engine) -> Engine:
        """The engine, if it is durable."""
        instance = await engine.open()
        durable = instance.broker.guarantees.durable
        await instance.broker.stop()
        if not durable:
            pytest.skip("this broker does not promise durability")
        return engine

    async def test_what_was_published_outlives_all_instances(self, durable: Engine) -> None:
        one = await durable.open()
        begins = await one.broker.subscribe("room")
        for number in range(5):
            newest = await publish(one, b"%d" % number, sender="ada")
        before = await one.broker.history("room", begins, 10)
        await durable.crash(one)
        anew = await durable.open()
        assert await anew.broker.history("room", begins, 10) == before
        assert await anew.broker.subscribe("room") == newest

    async def test_offsets_go_on_where_all_instances_were_killed(self, durable: Engine) -> None:
        one = await durable.open()
        newest = await publish(one, b"before")
        await durable.crash(one)
        anew = await durable.open()
        await anew.broker.subscribe("room")
        after = await publish(anew, b"after")
        assert (after.epoch, after.offset) == (newest.epoch, newest.offset + 1)
        assert [entry.payload for entry in await anew.inbox.entries("room", 1)] == [b"after"]
        assert await payloads(anew) == [b"before", b"after"]

    async def test_a_key_is_known_after_all_instances_were_killed(self, durable: Engine) -> None:
        one = await durable.open()
        first = await publish(one, b"x", key="k")
        await durable.crash(one)
        anew = await durable.open()
        assert await publish(anew, b"x", key="k") == first
        await durable.pass_time(durable.window * 1.5)
        assert (await publish(anew, b"x", key="k")).offset == 2

    async def test_no_position_is_given_twice_when_all_instances_were_killed(self, durable: Engine) -> None:
        one = await durable.open()
        begins = await one.broker.subscribe("room")
        first = await publish(one, b"x", key="k")
        await durable.pass_time(KEEP.age + durable.window * 1.5)
        await durable.crash(one)
        anew = await durable.open()
        assert not (await anew.broker.history("room", begins, 10)).complete
        assert await publish(anew, b"y") not in (begins, first)

    async def test_the_secret_outlives_all_instances(self, durable: Engine) -> None:
        one = await durable.open()
        secret = await one.broker.secret()
        await durable.crash(one)
        assert await (await durable.open()).broker.secret() == secret
