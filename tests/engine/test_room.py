import pytest

from hubbub import CollisionError, ConfigurationError, Connection, Hubbub, Message, Position, Room
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from instances import side_by_side
from told import Told
from wire import talk

pytestmark = pytest.mark.anyio


class Say(Message):
    text: str


def test_a_room_is_named_by_the_parts_of_its_pattern():
    rooms = Hubbub().room("game/{number}/{side}")
    room = rooms(number=7, side="white")
    assert room.name == "game/7/white"
    assert room.rooms is rooms
    assert (repr(room), repr(rooms)) == ("<Room 'game/7/white'>", "<Rooms 'game/{number}/{side}'>")
    for wrong in ({"number": 7}, {"number": 7, "side": "a/b"}, {"number": 7, "side": ""}):
        with pytest.raises(ValueError, match=r"game|part of a name"):
            rooms(**wrong)


@pytest.mark.parametrize("limits", [{"history": -1}, {"history_age": 0}])
def test_a_history_that_can_not_be_is_an_error(limits):
    with pytest.raises(ConfigurationError, match="history is a number of messages"):
        Hubbub().room("room", **limits)


def test_a_way_to_treat_slow_readers_that_there_is_not_is_an_error():
    with pytest.raises(ConfigurationError, match="slow is one of 'disconnect', 'drop', 'conflate', not 'w'"):
        Hubbub().room("room", slow="w")


async def test_a_key_is_for_rooms_that_conflate_and_has_a_bounded_length():
    hub = Hubbub()
    prices, chat = hub.room("price/{symbol}", history=3, slow="conflate"), hub.room("chat", slow="drop")
    async with hub.lifespan():
        price = prices(symbol="HUB")
        assert (await price.send(Say("1"), key="k" * 128)).offset == 1
        assert (await price.send(Say("2"), key="k", ephemeral=True)).offset == 1
        for key in ("", "k" * 129):
            with pytest.raises(ValueError, match=f"A key has 1 to 128 characters, not {len(key)}"):
                await price.send(Say("3"), key=key)
        for room in (chat(), hub.user("ada")):
            with pytest.raises(
                ConfigurationError, match=r'does not: declare hub.room\(.*, slow="conflate"\)'
            ):
                await room.send(Say("3"), key="k")
        assert (await price.send(Say("3"))).offset == 2


@pytest.mark.parametrize("kind", ["on_join", "on_leave"])
def test_two_hooks_of_one_kind_are_an_error_that_names_both_places(kind):
    rooms = Hubbub().room("room")

    def one() -> None: ...

    def other() -> None: ...

    getattr(rooms, kind)(one)
    with pytest.raises(CollisionError, match=rf"two {kind} hooks: .*one.*test_room.py:\d+ and .*other.*:\d+"):
        getattr(rooms, kind)(other)


async def test_it_publishes_from_anywhere_once_the_hub_is_started():
    hub = Hubbub()
    rooms = hub.room("room", history=3)
    with pytest.raises(ConfigurationError, match="The hub is not started"):
        await rooms().send(Say("early"))
    async with hub.lifespan():
        first = await rooms().send(Say("1"))
        for text in "2345":
            last = await rooms().send(Say(text))
        assert (first.offset, last.offset) == (1, 5)
        kept = await rooms().history()
        assert [(envelope.offset, envelope.type, envelope.data) for envelope in kept] == [
            (3, "say", {"text": "3"}),
            (4, "say", {"text": "4"}),
            (5, "say", {"text": "5"}),
        ]
        (newest,) = await rooms().history(Position(last.epoch, 4))
        assert newest.data == {"text": "5"}
        with pytest.raises(TypeError, match="str is no message"):
            await rooms().send("text")  # type: ignore[arg-type]


async def test_an_ephemeral_message_reaches_who_is_there_and_leaves_no_trace(start):
    hub = Hubbub()
    room = hub.room("room", history=10)

    @room.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message, ephemeral=True)

    async with talk(start(hub).url) as client:
        await client.join("room")
        await client.send(type="say", room="room", data={"text": "hi"})
        assert await client.receive() == {
            "type": "say",
            "room": "room",
            "from": f"guest:{client.welcome['connection'][:8]}",
            "data": {"text": "hi"},
        }
        page = (await client.ask(type="$history", room="room"))["data"]
        assert (page["messages"], page["offset"]) == ([], 0)


async def test_all_instances_see_one_order_and_exclude_holds_on_each(start):
    store = MemoryStore()

    def instance() -> Hubbub:
        hub = Hubbub(broker=MemoryBroker(store))
        room = hub.room("room", history=100)

        @room.on_message
        async def say(connection: Connection, room: Room, message: Say) -> None:
            await room.send(message, exclude=connection if message.text == "mine" else None)

        return hub

    url = start(side_by_side(one=instance(), other=instance())).url
    async with talk(f"{url}/one/") as ada, talk(f"{url}/other/") as bob:
        await ada.join("room")
        await bob.join("room")
        await ada.ask(type="say", room="room", data={"text": "mine"})
        await bob.send(type="say", room="room", data={"text": "all"})
        for client, texts in ((ada, ["all"]), (bob, ["mine", "all"])):
            seen = [await client.receive_type("say") for _ in texts]
            assert [message["data"]["text"] for message in seen] == texts
        assert seen[-1]["offset"] == 2


async def test_a_message_to_a_user_reaches_all_devices_and_is_kept_for_later_ones(start):
    hub, told = Hubbub(), Told()

    @hub.authenticate
    def who(connection: Connection) -> str | None:
        return connection.token

    @hub.on_message
    async def notify(message: Say) -> None:
        await hub.user("ada").send(message)
        told("sent")

    url = start(hub).url
    async with talk(f"{url}/?token=ada") as phone, talk(f"{url}/?token=ada") as laptop, talk(url) as bob:
        await bob.ask(type="say", data={"text": "for ada"})
        for device in (phone, laptop):
            assert await device.receive() == {
                "type": "say",
                "room": "$user/ada",
                "offset": 1,
                "data": {"text": "for ada"},
            }
    async with talk(f"{url}/?token=ada") as tablet:
        assert tablet.welcome["inbox"]["offset"] == 1
        page = (await tablet.ask(type="$history", room="$user/ada"))["data"]
        assert [message["data"]["text"] for message in page["messages"]] == ["for ada"]
