"""Taking a session up on another connection, as a client does that lost its line."""

import asyncio

import pytest

from chat_room import LOBBY, Say, chat_hub, nothing_more, post, said
from hubbub import Connection, Denied, Hubbub, Room, Settings, Unavailable
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.sessions import wall_time
from hubbub.protocol.resume import Claims, sign
from instances import side_by_side
from told import Gate, Told
from wire import Client, talk

pytestmark = pytest.mark.anyio


def chat(settings: Settings | None = None, *, store: MemoryStore | None = None, history: int = 100) -> Hubbub:
    """A chat in which one speaks to all others, and logs in with a name for a token."""
    hub = Hubbub(settings, broker=MemoryBroker(store or MemoryStore()))
    rooms = chat_hub(hub, history=history, presence=True)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        return connection.token

    @rooms.on_message
    async def say(connection: Connection, room: Room, message: Say) -> None:
        await room.send(message, exclude=connection)

    return hub


async def resumed(client: Client, session: str, position: dict | None, room: str = LOBBY) -> dict:
    """Take a session up with a position in one room; return the new welcome."""
    answer = await client.ask(type="$resume", data={"session": session, "rooms": {room: position}})
    assert answer["type"] == "$welcome", answer
    assert answer["data"]["resumed"]
    return answer["data"]


async def refused(client: Client, session: str) -> None:
    answer = await client.ask(type="$resume", data={"session": session, "rooms": {LOBBY: None}})
    assert answer == {
        "type": "$error",
        "id": "asked",
        "data": {"code": "session_refused", "message": "The session can't be taken up.", "retry": False},
    }
    # It goes on as a session of its own, which is in no room.
    assert (await client.ask(type="$leave", room=LOBBY))["data"]["code"] == "not_joined"


async def test_a_resumed_session_is_brought_what_it_missed_before_anything_new(start):
    url = start(chat()).url
    async with talk(url) as bob:
        async with talk(url) as ada:
            position = await ada.join(LOBBY)
            session = ada.welcome["session"]
        await post(bob, "one", "two", "three")
        async with talk(url) as ada:
            welcome = await resumed(ada, session, position)
            assert welcome["rooms"] == {LOBBY: position}
            assert "refused" not in welcome
            assert await said(ada, 3) == [(1, "one"), (2, "two"), (3, "three")]
            await post(bob, "four")
            assert await said(ada, 1) == [(4, "four")]


async def test_what_a_session_was_excluded_from_it_does_not_get_in_a_replay_either(start):
    url = start(chat()).url
    async with talk(url) as ada:
        position = await ada.join(LOBBY)
        session = ada.welcome["session"]
        await ada.ask(type="say", room=LOBBY, data={"text": "mine"})
        await post(ada, "another's")
    async with talk(url) as ada:
        await resumed(ada, session, position)
        assert await said(ada, 1) == [(2, "another's")]
        # Nor does it from now on.
        await ada.ask(type="say", room=LOBBY, data={"text": "mine again"})
        await nothing_more(ada)
    async with talk(url) as stranger:
        await stranger.join(LOBBY, since=position)
        assert await said(stranger, 3) == [(1, "mine"), (2, "another's"), (3, "mine again")]


async def test_a_session_can_be_resumed_again_and_again(start):
    url = start(chat()).url
    async with talk(url) as bob:
        async with talk(url) as ada:
            position = await ada.join(LOBBY)
            session = ada.welcome["session"]
        for number in range(1, 5):
            await post(bob, str(number))
            async with talk(url) as ada:
                session = (await resumed(ada, session, position))["session"]
                assert await said(ada, 1) == [(number, str(number))]
                position["offset"] = number


async def test_a_resume_whose_answer_was_lost_can_be_tried_again(start):
    url = start(chat()).url
    async with talk(url) as ada:
        session = ada.welcome["session"]
    for _ in range(3):
        async with talk(url) as ada:
            await resumed(ada, session, None)


async def test_a_gap_is_told_where_history_no_longer_reaches(start):
    url = start(chat(history=2)).url
    async with talk(url) as bob:
        async with talk(url) as ada:
            position = await ada.join(LOBBY)
            session = ada.welcome["session"]
        await post(bob, "one", "two", "three")
        async with talk(url) as ada:
            await resumed(ada, session, position)
            gap = await ada.receive()
            assert gap == {"type": "$gap", "room": LOBBY, "data": {"epoch": position["epoch"], "offset": 1}}
            assert await said(ada, 2) == [(2, "two"), (3, "three")]


async def test_many_rooms_are_resumed_in_one_step_each_from_its_own_position(start):
    hub = chat()
    other = hub.room("other/{name}", history=10)

    @hub.on_startup
    async def publish() -> None:
        for number in range(3):
            await other(name="x").send(Say(text=str(number)))

    url = start(hub).url
    async with talk(url) as ada:
        lobby, elsewhere = await ada.join(LOBBY), await ada.join("other/x")
        assert elsewhere["offset"] == 3
        session = ada.welcome["session"]
        await post(ada, "one")
    async with talk(url) as ada:
        rooms = {LOBBY: lobby, "other/x": elsewhere | {"offset": 1}}
        answer = await ada.ask(type="$resume", data={"session": session, "rooms": rooms})
        assert answer["data"]["rooms"] == rooms
        assert await said(ada, 3) == [(1, "one"), (2, "1"), (3, "2")]


async def test_permission_to_join_is_asked_for_again(start):
    hub = Hubbub()
    allowed = True

    @hub.room("club").on_join
    async def admit() -> None:
        if not allowed:
            raise Denied("closed")

    @hub.room("broken").on_join
    async def fail() -> None:
        if not allowed:
            raise ValueError

    url = start(hub).url
    async with talk(url) as ada:
        await ada.join("club")
        session = ada.welcome["session"]
    allowed = False
    async with talk(url) as ada:
        rooms = {"club": None, "broken": None, "nowhere": None}
        answer = await ada.ask(type="$resume", data={"session": session, "rooms": rooms})
        assert answer["data"]["resumed"]
        assert "rooms" not in answer["data"]
        refused = answer["data"]["refused"]
        assert refused["club"] == {"code": "denied", "message": "closed", "retry": False}
        assert refused["broken"]["code"] == "internal"
        assert refused["nowhere"]["code"] == "unknown_room"
        assert (await ada.ask(type="$leave", room="club"))["data"]["code"] == "not_joined"


async def test_the_older_connection_of_a_session_is_closed_with_4409(start):
    hub = chat()
    url = start(hub).url
    async with (
        talk(url + "/?token=ada") as old,
        talk(url + "/?token=ada") as new,
        talk(url) as bob,
        talk(url) as poster,
    ):
        position = await old.join(LOBBY)
        await bob.join(LOBBY)
        assert (await old.receive())["type"] == "$joined"
        welcome = await resumed(new, old.welcome["session"], position)
        assert (await old.closed())[0] == 4409
        assert welcome["connection"] == new.welcome["connection"]
        await post(poster, "one")
        # Nobody was told of a coming or going: ada was there all the time.
        assert await said(bob, 1) == [(1, "one")]
        assert await said(new, 1) == [(1, "one")]
        members = await bob.ask(type="$presence", room=LOBBY)
        assert members["data"]["members"][0]["user"] == "ada"


async def test_what_waits_on_the_older_connection_is_not_carried_out_any_more(start):
    hub = Hubbub()
    gate, began = Gate(), Told()

    @hub.on_message
    async def say(message: Say) -> None:
        began(message.text)
        await gate.passed()

    url = start(hub).url
    async with talk(url) as old, talk(url) as new:
        await old.send(type="say", id=1, data={"text": "handled"})
        await old.send(type="say", id=2, data={"text": "sent again"})
        assert await began.next() == "handled"
        await old.websocket.ping()
        await resumed(new, old.welcome["session"], None, room="nowhere")
        gate.open()
        await old.closed()
        assert (await new.ask(type="say", id=2, data={"text": "sent again"}))["type"] == "$ack"
    assert await began.next() == "sent again"
    assert began.silent


async def test_a_session_moves_to_another_instance(start):
    store = MemoryStore()
    url = start(side_by_side(one=chat(store=store), other=chat(store=store))).url
    async with talk(f"{url}/one/?token=ada") as old, talk(f"{url}/other/?token=ada") as new:
        position = await old.join(LOBBY)
        await old.ask(type="say", room=LOBBY, data={"text": "mine"})
        await post(old, "another's")
        welcome = await resumed(new, old.welcome["session"], position)
        assert (await old.closed())[0] == 4409
        assert await said(new, 1) == [(2, "another's")]
        async with talk(f"{url}/one/?token=ada") as back:
            await resumed(back, welcome["session"], position | {"offset": 2})
            assert (await new.closed())[0] == 4409
            async with talk(f"{url}/one/") as poster:
                await post(poster, "three")
            assert await said(back, 1) == [(3, "three")]


async def test_of_two_connections_on_two_instances_the_newer_stays(start):
    store = MemoryStore()
    url = start(side_by_side(one=chat(store=store), other=chat(store=store))).url
    async with talk(f"{url}/one/") as first:
        session = first.welcome["session"]
    async with talk(f"{url}/other/") as second, talk(f"{url}/one/") as third:
        await resumed(second, session, None)
        # With the same token: the answer to the first attempt may have been lost.
        await resumed(third, session, None)
        assert (await second.closed())[0] == 4409
        await nothing_more(third)


async def test_a_session_that_comes_back_to_where_it_is_still_being_closed_is_closed_elsewhere(serve):
    store = MemoryStore()
    app = side_by_side(one=chat(store=store), other=chat(store=store))
    url = serve(app, close_timeout=60.0).url
    async with (
        talk(f"{url}/one/", close_timeout=0.1) as first,
        talk(f"{url}/other/") as second,
        talk(f"{url}/one/") as third,
    ):
        # It is gone without a word: nobody will answer the close.
        first.websocket.transport.pause_reading()
        session = (await resumed(second, first.welcome["session"], None))["session"]
        await resumed(third, session, None)
        assert (await second.closed())[0] == 4409


class Hesitant(MemoryBroker):
    """Records who took a session up when its gate is open; `after` it has, or before."""

    def __init__(self, store: MemoryStore, gate: Gate, asked: Told, *, after: bool = False) -> None:
        super().__init__(store)
        self._gate, self._asked, self._after = gate, asked, after

    async def publish(self, room, payload, **options):
        records = room.startswith("$session/")
        if records and not self._after:
            self._asked()
            await self._gate.passed()
        position = await super().publish(room, payload, **options)
        if records and self._after:
            self._asked()
            await self._gate.passed()
        return position


@pytest.mark.parametrize("other", ["one", "other"])
async def test_of_two_connections_that_take_a_session_up_at_once_one_stays(start, other):
    store, gate, asked = MemoryStore(), Gate(), Told()
    names = ("home", "one", "other")
    app = side_by_side(**{name: Hubbub(broker=Hesitant(store, gate, asked)) for name in names})
    url = start(app).url
    async with talk(f"{url}/home/") as client:
        session = client.welcome["session"]
    async with talk(f"{url}/one/") as first, talk(f"{url}/{other}/") as second:
        for each in (first, second):
            await each.send(type="$resume", id=1, data={"session": session, "rooms": {}})
            await asked.next()
        gate.open()
        ends = {asyncio.create_task(each.closed()): each for each in (first, second)}
        done, waiting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()[0] for task in done] == [4409]
        for task in waiting:
            task.cancel()
            await asyncio.wait([task])
            assert (await ends[task].ask(type="$ping"))["type"] == "$pong"


async def test_a_connection_that_hears_late_that_it_took_a_session_up_is_overtaken(start):
    store, gate, asked = MemoryStore(), Gate(), Told()
    one = Hubbub(broker=Hesitant(store, gate, asked, after=True))
    other = Hubbub(broker=MemoryBroker(store))
    url = start(side_by_side(one=one, other=other)).url
    async with talk(f"{url}/one/") as first, talk(f"{url}/other/") as second:
        session = second.welcome["session"]
        await first.send(type="$resume", id=1, data={"session": session, "rooms": {}})
        await asked.next()
        async with talk(f"{url}/other/") as third:
            await resumed(third, session, None, "nowhere")
            gate.open()
            assert (await first.closed())[0] == 4409
            await nothing_more(third)


async def test_a_guest_keeps_its_name_when_it_comes_back(start):
    hub = chat()
    url = start(hub).url
    async with talk(url) as bob:
        await bob.join(LOBBY)
        async with talk(url) as guest:
            position = await guest.join(LOBBY)
            session = guest.welcome["session"]
            name = (await bob.receive())["data"][0]["user"]
            async with talk(url) as again:
                await resumed(again, session, position)
                await again.send(type="say", room=LOBBY, data={"text": "me again"})
                message = await bob.receive()
                assert (message["type"], message["from"]) == ("say", name)


async def test_a_connection_that_resumes_its_own_session_is_not_closed(start):
    url = start(chat()).url
    async with talk(url) as ada, talk(url) as bob:
        session = (await resumed(ada, ada.welcome["session"], None))["session"]
        await post(bob, "one")
        assert await said(ada, 1) == [(1, "one")]
        async with talk(url) as again:
            await resumed(again, session, None)
            assert (await ada.closed())[0] == 4409


# Which tokens are refused


async def test_a_forged_token_is_refused(start):
    url = start(chat()).url
    async with talk(url) as ada, talk(url) as eve:
        await ada.join(LOBBY)
        token = ada.welcome["session"]
        opened = bytearray.fromhex(token)
        opened[-3] ^= 1
        for forged in (
            opened.hex(),
            sign(Claims(ada.welcome["connection"], None, 0, "", 1e12), bytes(32)),
            ada.welcome["connection"],
            "",
            "ä",
            "x" * 4096,
        ):
            await refused(eve, forged)
        await nothing_more(ada)


async def test_an_expired_token_is_refused(start, monkeypatch):
    url = start(chat(Settings(session_lifetime=60))).url
    async with talk(url) as ada, talk(url) as again:
        later = wall_time() + 61
        monkeypatch.setattr("hubbub.engine.sessions.wall_time", lambda: later)
        await refused(again, ada.welcome["session"])
        await nothing_more(ada)


async def test_a_token_of_another_user_is_refused(start):
    url = start(chat()).url
    async with talk(f"{url}/?token=ada") as ada, talk(url) as guest, talk(f"{url}/?token=eve") as eve:
        for client, token in ((eve, ada), (guest, ada), (eve, guest)):
            await refused(client, token.welcome["session"])
        for client in (ada, guest, eve):
            await nothing_more(client)


async def test_a_token_whose_successor_was_used_is_refused(start):
    url = start(chat()).url
    async with talk(url) as ada:
        first = ada.welcome["session"]
    async with talk(url) as ada:
        second = (await resumed(ada, first, None))["session"]
    async with talk(url) as ada, talk(url) as eve:
        await resumed(ada, second, None)
        await refused(eve, first)
        await nothing_more(ada)


async def test_a_token_of_another_server_is_refused(start):
    one, other = start(chat()).url, start(chat()).url
    async with talk(one) as ada, talk(other) as foreign:
        await refused(foreign, ada.welcome["session"])


async def test_a_guests_token_is_of_no_use_once_the_guest_has_logged_in(start):
    url = start(chat()).url
    async with talk(url) as ada, talk(url) as guest:
        before = ada.welcome["session"]
        answer = await ada.ask(type="$auth", data={"token": "ada"})
        await refused(guest, before)
        async with talk(f"{url}/?token=ada") as again:
            await resumed(again, answer["data"]["session"], None)
            assert (await ada.closed())[0] == 4409


async def test_a_session_asks_for_a_new_token_while_it_is_connected(start):
    url = start(chat(Settings(session_lifetime=60.0))).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        answer = await ada.ask(type="$session")
        assert answer["data"]["lifetime"] == 60.0
        async with talk(url) as again:
            await resumed(again, answer["data"]["session"], None)


# When it can't be done


async def test_resuming_comes_first(start):
    url = start(chat()).url
    async with talk(url) as ada:
        session = ada.welcome["session"]
    async with talk(url) as joined, talk(url) as spoke:
        await joined.join(LOBBY)
        await post(spoke, "one")
        for client in (joined, spoke):
            answer = await client.ask(type="$resume", data={"session": session})
            assert answer["data"]["code"] == "invalid"
    async with talk(url) as ada:
        await ada.send(type="$ping")
        await ada.receive()
        await ada.ask(type="$auth", data={"token": "ada"})
        await refused(ada, session)


async def test_more_rooms_than_a_connection_may_be_in_are_not_even_looked_for(start):
    url = start(chat(Settings(max_rooms=2))).url
    async with talk(url) as ada:
        session = ada.welcome["session"]
    async with talk(url) as ada:
        rooms = {LOBBY: None, "chat/two": None, "chat/three": None}
        answer = await ada.ask(type="$resume", data={"session": session, "rooms": rooms})
        assert answer["data"]["code"] == "too_many_rooms"
        del rooms["chat/three"]
        answer = await ada.ask(type="$resume", data={"session": session, "rooms": rooms})
        assert set(answer["data"]["rooms"]) == set(rooms)


async def test_a_session_is_resumed_once_on_a_connection(start):
    url = start(chat()).url
    async with talk(url) as ada:
        session = ada.welcome["session"]
    async with talk(url) as ada:
        for kind in ("$welcome", "$error"):
            answer = await ada.ask(type="$resume", data={"session": session, "rooms": {}})
            assert answer["type"] == kind


class Failing(MemoryBroker):
    """Can't be reached for what its tests say."""

    unreachable: tuple[str, ...] = ()

    async def history(self, room, since, limit):
        if room.startswith(self.unreachable):
            raise Unavailable("away")
        return await super().history(room, since, limit)

    async def subscribe(self, room):
        if room in self.unreachable:
            raise Unavailable("away")
        return await super().subscribe(room)


@pytest.mark.parametrize("room", ["$session/", LOBBY])
async def test_a_broker_that_is_away_sends_the_client_away_until_later(start, room):
    broker = Failing()
    hub = Hubbub(broker=broker)
    hub.room("chat/{name}", history=10)
    url = start(hub).url
    async with talk(url) as ada:
        await ada.join(LOBBY)
        session = ada.welcome["session"]
    broker.unreachable = (room,)
    async with talk(url) as ada:
        await ada.send(type="$resume", data={"session": session, "rooms": {LOBBY: None}})
        assert (await ada.closed())[0] == 1013
    broker.unreachable = ()
    async with talk(url) as ada:
        await resumed(ada, session, None)


async def test_live_messages_that_arrive_during_a_resume_are_neither_lost_nor_doubled(start):
    url = start(chat(history=2000)).url
    async with talk(url) as bob, talk(url) as ada:
        position = await ada.join(LOBBY)
        session = ada.welcome["session"]
        ada.websocket.transport.abort()

        async def publish() -> None:
            for number in range(100):
                await post(bob, *(f"{number}.{part}" for part in range(5)))

        publishing = asyncio.create_task(publish())
        seen = 0
        while seen < 500:
            async with talk(url) as ada:
                session = (await resumed(ada, session, position))["session"]
                for _ in range(min(23, 500 - seen)):
                    [(offset, _)] = await said(ada, 1)
                    assert offset == seen + 1
                    seen = offset
                position["offset"] = seen
                ada.websocket.transport.abort()
        await publishing
