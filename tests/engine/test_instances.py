"""Several instances of one application: members notice nothing of it."""

import asyncio

import pytest

from chat_room import LOBBY, Say, nothing_more, said
from hubbub import Connection, Hubbub, Room
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from instances import side_by_side
from wire import Client, talk

pytestmark = pytest.mark.anyio


def instance(store: MemoryStore) -> Hubbub:
    hub = Hubbub(broker=MemoryBroker(store))
    chat = hub.room("chat/{name}", history=1000, presence=True)

    @hub.authenticate
    def who(connection: Connection) -> str | None:
        return connection.token

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_message
    async def notify(message: Say) -> None:
        await hub.user("ada").send(message)

    return hub


@pytest.fixture
def url(start) -> str:
    """Where the instances `one` and `other` are served."""
    store = MemoryStore()
    return start(side_by_side(one=instance(store), other=instance(store))).url


async def test_all_members_on_all_instances_see_the_same_messages_in_the_same_order(url):
    async def send(client: Client, name: str) -> None:
        for number in range(20):
            await client.send(type="say", room=LOBBY, data={"text": f"{name} {number}"})

    async with (
        talk(f"{url}/one/?token=1") as first,
        talk(f"{url}/one/?token=2") as second,
        talk(f"{url}/other/?token=3") as third,
        talk(f"{url}/other/?token=4", subprotocols=["hubbub.v1.msgpack"]) as fourth,
    ):
        clients = [first, second, third, fourth]
        for client in clients:
            await client.join(LOBBY)
        await asyncio.gather(*(send(client, str(number)) for number, client in enumerate(clients)))
        views = []
        for client in clients:
            view = [await client.receive_type("say") for _ in range(80)]
            views.append([(message["offset"], message["from"], message["data"]["text"]) for message in view])
        assert [offset for offset, _, _ in views[0]] == list(range(1, 81))
        assert views[0] == views[1] == views[2] == views[3]
        for number, user in enumerate("1234"):
            texts = [text for _, sender, text in views[0] if sender == user]
            assert texts == [f"{number} {count}" for count in range(20)]


async def test_what_was_missed_on_one_instance_is_caught_up_with_on_another(url):
    async with talk(f"{url}/other/?token=bob") as bob:
        async with talk(f"{url}/one/?token=ada") as ada:
            await ada.join(LOBBY)
            await ada.ask(type="say", room=LOBBY, data={"text": "1"})
            since = await bob.join(LOBBY)
        await bob.ask(type="say", room=LOBBY, data={"text": "2"})
        await bob.ask(type="say", room=LOBBY, data={"text": "3"})
        async with talk(f"{url}/other/?token=ada") as ada:
            await ada.join(LOBBY, since=since)
            assert await said(ada, 2) == [(2, "2"), (3, "3")]
            await nothing_more(ada)


async def test_a_user_with_a_device_on_each_instance_is_there_once(url):
    async with talk(f"{url}/one/?token=bob") as bob:
        await bob.join(LOBBY)
        async with talk(f"{url}/one/?token=ada") as phone:
            async with talk(f"{url}/other/?token=ada") as laptop:
                await phone.join(LOBBY)
                assert (await bob.receive())["type"] == "$joined"
                await laptop.join(LOBBY)
                answer = await laptop.ask(type="$presence", room=LOBBY)
                assert answer["data"]["members"] == [{"user": "bob"}, {"user": "ada"}]
            await phone.ask(type="$leave", room=LOBBY)
            assert await bob.receive() == {"type": "$left", "room": LOBBY, "data": [{"user": "ada"}]}
        await nothing_more(bob)


async def test_a_message_to_a_user_reaches_the_devices_on_each_instance(url):
    async with (
        talk(f"{url}/one/?token=ada") as phone,
        talk(f"{url}/other/?token=ada") as laptop,
        talk(f"{url}/other/?token=bob") as bob,
    ):
        await bob.ask(type="say", data={"text": "hi"})
        for device in (phone, laptop):
            assert await said(device, 1) == [(1, "hi")]
        await nothing_more(bob)
