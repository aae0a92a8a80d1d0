import pytest

from hubbub import ConfigurationError, Connection, Hubbub, Member, Settings
from hubbub.brokers.memory import MemoryBroker, MemoryStore
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
                "data": {"user": "bob", "info": {"shown": "Bob"}},
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
        assert (await ada.receive())["data"]["user"] == "bob"
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
            "data": {"user": "bob"},
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
