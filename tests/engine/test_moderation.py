"""Taking users out of rooms, on all instances, and keeping them out."""

import pytest

from chat_room import LOBBY, nothing_more
from hubbub import ConfigurationError, Connection, Hubbub, Settings, Unavailable
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.bans import LONGEST_BAN
from hubbub.engine.sessions import wall_time
from instances import side_by_side
from moderated_chat import Ban, moderated_chat
from told import Gate, Told
from wire import talk

pytestmark = pytest.mark.anyio


def two() -> tuple[Hubbub, Hubbub]:
    store = MemoryStore()
    return moderated_chat(MemoryBroker(store)), moderated_chat(MemoryBroker(store))


def kicked(code: str, reason: str) -> dict:
    data = {"code": code, "message": reason, "retry": False}
    return {"type": "$kicked", "room": LOBBY, "data": data}


async def test_a_user_is_taken_out_on_all_instances_and_the_others_see_them_leave(start):
    one, other = two()
    url = start(side_by_side(one=one, other=other)).url
    async with (
        talk(f"{url}/one/?token=ada") as phone,
        talk(f"{url}/other/?token=ada", subprotocols=["hubbub.v1.msgpack"]) as laptop,
        talk(f"{url}/one/?token=bob") as bob,
    ):
        await bob.join(LOBBY)
        await phone.join(LOBBY)
        await laptop.join(LOBBY)
        assert (await bob.receive())["type"] == "$joined"
        answer = await bob.ask(type="kick", data={"user": "ada"})
        assert answer["data"] == {"of": 2}
        assert await phone.receive_type("$kicked") == kicked("kicked", "Be kind.")
        assert await laptop.receive_type("$kicked") == kicked("kicked", "Be kind.")
        await bob.ask(type="say", room=LOBBY, data={"text": "gone?"})
        assert (await bob.ask(type="$presence", room=LOBBY))["data"]["members"] == [{"user": "bob"}]
        for device in (phone, laptop):
            answer = await device.ask(type="say", room=LOBBY, data={"text": "still here"})
            assert answer["data"]["code"] == "not_joined"
            await nothing_more(device)


async def test_the_others_are_told_that_who_was_taken_out_has_left(start):
    url = start(moderated_chat()).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        await bob.join(LOBBY)
        await ada.join(LOBBY)
        await bob.receive_type("$joined")
        await ada.ask(type="kick", data={"user": "ada"})
        assert await bob.receive_type("$left") == {"type": "$left", "room": LOBBY, "data": [{"user": "ada"}]}


async def test_who_was_kicked_may_join_again(start):
    url = start(moderated_chat()).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        await ada.join(LOBBY)
        await bob.ask(type="kick", data={"user": "ada"})
        await ada.receive_type("$kicked")
        await ada.join(LOBBY)
        await ada.ask(type="say", room=LOBBY, data={"text": "sorry"})
        assert (await bob.ask(type="kick", data={"user": "cleo"}))["data"] == {"of": 0}
        answer = await ada.ask(type="$presence", room=LOBBY)
        assert answer["data"]["members"] == [{"user": "ada"}]


async def test_a_guest_can_be_kicked_by_the_name_that_others_see(start):
    url = start(moderated_chat()).url
    async with talk(url) as guest, talk(url) as other:
        await guest.join(LOBBY)
        await other.join(LOBBY)
        name = f"guest:{guest.welcome['connection'][:8]}"
        assert (await other.ask(type="kick", data={"user": name}))["data"] == {"of": 1}
        assert (await guest.receive_type("$kicked"))["data"]["code"] == "kicked"
        await other.ask(type="say", room=LOBBY, data={"text": "I am in"})


async def test_the_leave_hook_runs_once_for_who_is_kicked_and_then_disconnects(start):
    hub, told = moderated_chat(), Told()
    hub.rooms[0].on_leave(lambda name: told("leave", name))
    hub.on_disconnect(lambda: told("disconnect"))
    url = start(hub).url
    async with talk(f"{url}/?token=ada") as ada:
        await ada.join(LOBBY)
        await ada.ask(type="kick", data={"user": "ada"})
    assert [await told.next(), await told.next()] == [("leave", "lobby"), "disconnect"]
    assert told.silent


async def test_a_leave_hook_that_fails_is_logged_and_the_rest_goes_on(start, logs):
    hub = moderated_chat()

    @hub.rooms[0].on_leave
    async def fails() -> None:
        raise ZeroDivisionError

    url = start(hub).url
    async with talk(f"{url}/?token=ada") as ada:
        await ada.join(LOBBY)
        await ada.ask(type="kick", data={"user": "ada"})
        await logs.wait("error", during="leave", room=LOBBY)
        await ada.join(LOBBY)


async def test_who_joins_again_at_once_waits_until_they_have_left(start):
    hub, gate, told = moderated_chat(), Gate(), Told()
    hub.rooms[0].on_join(lambda: told("join"))

    @hub.rooms[0].on_leave
    async def leave() -> None:
        await gate.passed()
        told("left")

    url = start(hub).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        await ada.join(LOBBY)
        await bob.ask(type="kick", data={"user": "ada"})
        await ada.receive_type("$kicked")
        await ada.send(type="$join", id=1, room=LOBBY)
        gate.open()
        assert (await ada.receive())["type"] == "$ack"
        answer = await ada.ask(type="$presence", room=LOBBY)
        assert answer["data"]["members"] == [{"user": "ada"}]
    assert [await told.next() for _ in range(3)] == ["join", "left", "join"]


async def test_a_join_that_is_under_way_is_refused_and_undone(start):
    hub, gate, told = moderated_chat(), Gate(), Told()

    @hub.rooms[0].on_join
    async def slow(connection: Connection) -> None:
        if connection.user == "ada":
            told("joining")
            await gate.passed()

    hub.rooms[0].on_leave(lambda connection: told("left", connection.user))
    url = start(hub).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        await ada.send(type="$join", id=1, room=LOBBY)
        assert await told.next() == "joining"
        assert (await bob.ask(type="ban", data={"user": "ada"}))["data"] == {"of": 1}
        gate.open()
        answer = await ada.receive()
        assert (answer["id"], answer["data"]["code"]) == (1, "banned")
        assert await told.next() == ("left", "ada")
        await bob.join(LOBBY)
        answer = await bob.ask(type="$presence", room=LOBBY)
        assert answer["data"]["members"] == [{"user": "bob"}]


async def test_a_replay_ends_where_its_member_is_taken_out(serve):
    """History is ahead of a feed that never comes: the replay would wait for ever."""

    class Silent(MemoryBroker):
        async def subscribe(self, room: str):
            position = await super().subscribe(room)
            if room == LOBBY:
                self.store.stream(room).subscribers.clear()
            return position

    hub = moderated_chat(Silent())
    url = serve(hub).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        since = await bob.join(LOBBY)
        await bob.ask(type="say", room=LOBBY, data={"text": "1"})
        await ada.send(type="$join", id=1, room=LOBBY, data={"since": {**since, "offset": 1}})
        assert (await ada.receive())["type"] == "$ack"
        await bob.ask(type="kick", data={"user": "ada"})
        assert (await ada.receive_type("$kicked"))["room"] == LOBBY
        assert (await ada.ask(type="$ping"))["type"] == "$pong"


async def test_who_is_banned_is_out_and_can_not_join_on_any_instance(start):
    one, other = two()
    url = start(side_by_side(one=one, other=other)).url
    async with talk(f"{url}/one/?token=ada") as ada, talk(f"{url}/other/?token=bob") as bob:
        await ada.join(LOBBY)
        assert (await bob.ask(type="ban", data={"user": "ada"}))["data"] == {"of": 1}
        assert await ada.receive_type("$kicked") == kicked("banned", "Not today.")
        refusal = {"code": "banned", "message": "Not today.", "retry": False}
        assert (await ada.ask(type="$join", room=LOBBY))["data"] == refusal
        async with talk(f"{url}/other/?token=ada") as elsewhere:
            assert (await elsewhere.ask(type="$join", room=LOBBY))["data"] == refusal
            await elsewhere.join("chat/other")
        await bob.join(LOBBY)
        await bob.ask(type="unban", data={"user": "ada"})
        await ada.join(LOBBY)


async def test_a_ban_ends_when_its_time_is_over(monkeypatch):
    hub = moderated_chat()
    lobby = hub.rooms[0](name="lobby")
    async with hub.lifespan():
        await lobby.ban("ada", seconds=60)
        bans, now = hub._hub.running.bans, wall_time()
        assert await bans.of(LOBBY, "ada") == "You are banned from the room."
        monkeypatch.setattr("hubbub.engine.bans.wall_time", lambda: now + 59)
        assert await bans.of(LOBBY, "ada") is not None
        monkeypatch.setattr("hubbub.engine.bans.wall_time", lambda: now + 61)
        assert await bans.of(LOBBY, "ada") is None


async def test_no_ban_is_taken_for_that_of_another_room_and_user():
    hub = Hubbub()
    rooms = hub.room("{a}/{b}", bans=True)
    async with hub.lifespan():
        await rooms(a="a", b="b").ban("c/d", seconds=60)
        assert await hub._hub.running.bans.of("a/b/c", "d") is None
        assert await hub._hub.running.bans.of("a/b", "c/d") is not None


async def test_a_ban_outlives_a_restart_where_the_broker_is_durable(start, tmp_path):
    settings = Settings(broker=f"sqlite:///{tmp_path}/hubbub.db")

    def app() -> Hubbub:
        hub = Hubbub(settings)
        rooms = hub.room("chat/{name}", bans=True)
        hub.authenticate(lambda connection: connection.token)

        @hub.on_message
        async def ban(message: Ban) -> None:
            await rooms(name="lobby").ban(message.user, seconds=message.seconds)

        return hub

    first = start(app())
    async with talk(f"{first.url}/?token=bob") as bob:
        await bob.ask(type="ban", data={"user": "ada"})
    first.stop()
    async with talk(f"{start(app()).url}/?token=ada") as ada:
        assert (await ada.ask(type="$join", room=LOBBY))["data"]["code"] == "banned"


async def test_a_guest_who_logs_in_as_a_banned_user_is_taken_out(start):
    url = start(moderated_chat()).url
    async with talk(url) as guest, talk(f"{url}/?token=bob") as bob:
        await bob.join(LOBBY)
        await guest.join(LOBBY)
        await bob.ask(type="ban", data={"user": "ada"})
        await guest.send(type="$auth", id=1, data={"token": "ada"})
        assert (await guest.receive_type("$kicked"))["data"]["code"] == "banned"
        assert (await guest.receive_type("$ack"))["data"]["user"] == "ada"
        answer = await bob.ask(type="$presence", room=LOBBY)
        assert answer["data"]["members"] == [{"user": "bob"}]


async def test_a_session_that_was_resumed_is_refused_the_room_it_is_banned_from(start):
    url = start(moderated_chat()).url
    async with talk(f"{url}/?token=bob") as bob:
        async with talk(f"{url}/?token=ada") as ada:
            position = await ada.join(LOBBY)
            session = ada.welcome["session"]
        await bob.ask(type="ban", data={"user": "ada"})
        async with talk(f"{url}/?token=ada") as ada:
            answer = await ada.ask(type="$resume", data={"session": session, "rooms": {LOBBY: position}})
            assert answer["data"]["refused"][LOBBY]["code"] == "banned"


async def test_where_bans_are_not_kept_a_ban_is_an_error_and_joins_ask_nothing():
    class Counting(MemoryBroker):
        asked = 0

        async def history(self, room, since, limit):
            self.asked += 1
            return await super().history(room, since, limit)

    broker = Counting()
    hub = moderated_chat(broker, bans=False)
    lobby = hub.rooms[0](name="lobby")
    async with hub.lifespan():
        with pytest.raises(ConfigurationError, match=r"declare hub.room\('chat/\{name\}', bans=True\)"):
            await lobby.ban("ada", seconds=60)
        with pytest.raises(ConfigurationError, match="bans=True"):
            await lobby.unban("ada")
    assert broker.asked == 0


async def test_what_can_not_be_is_refused():
    hub = moderated_chat()
    lobby = hub.rooms[0](name="lobby")
    async with hub.lifespan():
        for seconds in (0, -1, LONGEST_BAN + 1, float("nan")):
            with pytest.raises(ValueError, match="A ban lasts"):
                await lobby.ban("ada", seconds=seconds)
        with pytest.raises(ValueError, match="up to 1000 characters"):
            await lobby.kick("ada", reason="x" * 1001)
        with pytest.raises(ConfigurationError, match="inbox"):
            await hub.user("ada").kick("ada")


async def test_a_ban_that_can_not_be_read_is_logged_and_none(logs):
    hub = moderated_chat()
    async with hub.lifespan():
        running = hub._hub.running
        await running.bans.set(LOBBY, "ada", 60, "no")
        (room,) = [name for name in running.broker.store.streams if name.startswith("$ban/")]
        stream = running.broker.store.streams[room]
        moment, entry = stream.entries[0]
        stream.entries[0] = (moment, entry._replace(payload=b"\xc1"))
        assert await running.bans.of(LOBBY, "ada") is None
    assert logs.of("error", during="reading a ban")


async def test_a_kick_that_not_every_instance_is_known_to_have_got_returns_none(logs, monkeypatch):
    monkeypatch.setattr("hubbub.engine.users.WAIT", 0.05)
    store = MemoryStore()
    hub, deaf = moderated_chat(MemoryBroker(store)), MemoryBroker(store, instance="deaf")

    class Nobody:
        def control(self, payload: bytes) -> None: ...

    await deaf.start(Nobody())
    async with hub.lifespan():
        assert await hub.rooms[0](name="lobby").kick("ada") is None
    assert logs.of("control", asked="kick", unanswered="deaf")


async def test_who_can_not_ask_the_others_has_kicked_here_all_the_same(start):
    class Away(MemoryBroker):
        async def instances(self) -> list[str]:
            raise Unavailable("The broker is away.")

    url = start(moderated_chat(Away())).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        await ada.join(LOBBY)
        answer = await bob.ask(type="kick", data={"user": "ada"})
        assert answer["data"]["code"] == "unavailable"
        await ada.receive_type("$kicked")


async def test_kicked_while_a_message_was_on_its_way_means_in_order(start):
    url = start(moderated_chat()).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        await ada.join(LOBBY)
        await bob.join(LOBBY)
        await bob.send(type="say", room=LOBBY, data={"text": "before"})
        await bob.ask(type="kick", data={"user": "ada"})
        await bob.send(type="say", room=LOBBY, data={"text": "after"})
        kinds = []
        while not kinds or kinds[-1] != "$kicked":
            kinds.append((await ada.receive())["type"])
        assert [kind for kind in kinds if kind != "$joined"] == ["say", "$kicked"]
        await nothing_more(ada)


async def test_many_kicks_at_once_take_each_out_once(start):
    url = start(moderated_chat()).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        await ada.join(LOBBY)
        for number in range(5):
            await bob.send(type="kick", id=f"kick {number}", data={"user": "ada"})
        counts = [(await bob.receive())["data"]["of"] for _ in range(5)]
        assert counts == [1, 0, 0, 0, 0]
        await ada.receive_type("$kicked")
        await nothing_more(ada)
