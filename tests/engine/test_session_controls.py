import pytest

from echo import Say, echo_hub, is_alive
from hubbub import Connection, Denied, Hubbub, Message, Position, Room, Unavailable
from hubbub.brokers.memory import MemoryBroker
from wire import talk

pytestmark = pytest.mark.anyio


class Post(Message):
    count: int


@pytest.mark.parametrize("subprotocol", ["hubbub.v1.json", "hubbub.v1.msgpack"])
async def test_ping_is_answered_and_pong_is_not(start, subprotocol):
    async with talk(start(echo_hub()).url, subprotocols=[subprotocol]) as client:
        await client.send(type="$ping")
        assert await client.receive() == {"type": "$pong"}
        await client.send(type="$ping", id=5)
        assert await client.receive() == {"type": "$pong", "id": 5}
        await client.send(type="$pong", id=6)
        await is_alive(client)


def room_with_history(hub: Hubbub, history: int) -> None:
    lobby = hub.room("lobby", history=history)

    @lobby.on_message
    async def post(room: Room, message: Post) -> Position | None:
        position = None
        for number in range(1, message.count + 1):
            position = await room.send(Post(count=number))
        return position


async def test_history_is_read_page_by_page(start):
    hub = Hubbub()
    room_with_history(hub, history=100)
    url = start(hub).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join("lobby")
        position = await bob.join("lobby")
        await ada.ask(type="post", room="lobby", data={"count": 25})
        epoch = position["epoch"]

        newest = (await bob.ask(type="$history", room="lobby", data={"limit": 10}))["data"]
        assert [message["offset"] for message in newest["messages"]] == list(range(16, 26))
        assert (newest["epoch"], newest["offset"], newest["complete"]) == (epoch, 25, True)

        seen: list[int] = []
        for offset in (10, 20, 25, 25):
            since = {"since": position}
            page = (await bob.ask(type="$history", room="lobby", data={**since, "limit": 10}))["data"]
            assert page["complete"]
            position = {"epoch": page["epoch"], "offset": page["offset"]}
            assert position == {"epoch": epoch, "offset": offset}
            seen += [message["offset"] for message in page["messages"]]
        assert seen == list(range(1, 26))

        everything = (await bob.ask(type="$history", room="lobby"))["data"]
        assert everything["messages"][0] == {
            "type": "post",
            "room": "lobby",
            "offset": 1,
            "from": f"guest:{ada.welcome['connection'][:8]}",
            "data": {"count": 1},
        }


async def test_history_tells_where_it_no_longer_reaches(start):
    hub = Hubbub()
    room_with_history(hub, history=3)
    async with talk(start(hub).url) as client:
        position = await client.join("lobby")
        await client.ask(type="post", room="lobby", data={"count": 5})
        page = (await client.ask(type="$history", room="lobby", data={"since": position}))["data"]
        assert page["complete"] is False
        assert [message["offset"] for message in page["messages"]] == [3, 4, 5]


async def test_presence_is_refused_where_it_is_not_kept(start):
    hub = Hubbub()
    hub.room("lobby")
    async with talk(start(hub).url) as client:
        await client.join("lobby")
        error = await client.ask(type="$presence", room="lobby")
        assert error["data"]["code"] == "denied"
        assert "presence=True" in error["data"]["message"]


# Logging in again


def hub_with_login(broker: MemoryBroker | None = None) -> Hubbub:
    """Whoever has a token is the user of that name; "bad" is refused."""
    hub = Hubbub(broker=broker)

    @hub.authenticate
    async def authenticate(connection: Connection) -> str | None:
        if connection.token == "bad":
            raise Denied("wrong token")
        return connection.token

    class Notify(Message):
        user: str

    @hub.on_message
    async def notify(message: Notify) -> None:
        await hub.user(message.user).send(Say(text="for you"))

    hub.room("lobby", presence=True)
    return hub


async def test_a_guest_becomes_a_user(start):
    url = start(hub_with_login()).url
    async with talk(url) as ada, talk(url) as bob:
        guest = f"guest:{ada.welcome['connection'][:8]}"
        assert "user" not in ada.welcome
        assert "inbox" not in ada.welcome
        await bob.join("lobby")
        await ada.join("lobby")
        assert (await bob.receive_type("$joined"))["data"] == [{"user": guest}]

        answer = await ada.ask(type="$auth", id=1, data={"token": "ada"})
        assert answer["type"] == "$ack"
        assert answer["data"]["user"] == "ada"
        assert answer["data"]["inbox"]["room"] == "$user/ada"
        assert answer["data"]["inbox"]["offset"] == 0
        assert await bob.receive() == {"type": "$left", "room": "lobby", "data": [{"user": guest}]}
        assert await bob.receive() == {"type": "$joined", "room": "lobby", "data": [{"user": "ada"}]}
        members = (await bob.ask(type="$presence", room="lobby"))["data"]["members"]
        assert {"user": "ada"} in members
        assert len(members) == 2
        await bob.ask(type="notify", data={"user": "ada"})
        assert await ada.receive_type("say") == {
            "type": "say", "room": "$user/ada", "offset": 1, "data": {"text": "for you"},
        }  # fmt: skip


async def test_a_user_can_renew_the_login_but_not_become_another(start):
    async with talk(f"{start(hub_with_login()).url}/?token=ada") as ada:
        assert ada.welcome["user"] == "ada"
        assert (await ada.ask(type="$auth", data={"token": "ada"}))["data"] == {"user": "ada"}
        error = await ada.ask(type="$auth", data={"token": "bob"})
        assert error["data"]["code"] == "denied"
        assert "another user's" in error["data"]["message"]
        error = await ada.ask(type="$auth", data={"token": "bad"})
        assert error["data"] == {"code": "denied", "message": "wrong token", "retry": False}
        await ada.ask(type="notify", data={"user": "ada"})


async def test_without_authentication_a_guest_stays_one(start):
    async with talk(start(echo_hub()).url) as client:
        assert (await client.ask(type="$auth", data={"token": "x"}))["data"] == {"user": None}


class FailingOnce(MemoryBroker):
    """Can't be reached when it is asked to enter or subscribe for `room` the first time."""

    def __init__(self, room: str) -> None:
        super().__init__()
        self.room = room
        self.armed = False

    async def subscribe(self, room: str) -> Position:
        self._fail(room)
        return await super().subscribe(room)

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        self._fail(room)
        return await super().enter(room, member, connection, details)

    def _fail(self, room: str) -> None:
        if self.armed and room == self.room:
            self.armed = False
            raise Unavailable("The broker is away; try again.")


@pytest.mark.parametrize("room", ["lobby", "$user/ada"])
async def test_a_login_that_the_broker_refuses_can_be_tried_again(start, room):
    broker = FailingOnce(room)
    url = start(hub_with_login(broker)).url
    async with talk(url) as ada, talk(url) as bob:
        await ada.join("lobby")
        await bob.join("lobby")
        broker.armed = True
        answer = await ada.ask(type="$auth", data={"token": "ada"})
        assert answer["data"]["code"] == "unavailable"
        answer = await ada.ask(type="$auth", data={"token": "ada"})
        assert answer["data"]["user"] == "ada"
        members = (await bob.ask(type="$presence", room="lobby"))["data"]["members"]
        assert {"user": "ada"} in members
        assert len(members) == 2
        await bob.ask(type="notify", data={"user": "ada"})
        assert (await ada.receive_type("say"))["data"] == {"text": "for you"}
