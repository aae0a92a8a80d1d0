"""Streams: what a client of an HTTP line is told, how it comes back, and how its line ends."""

import asyncio
import http.client
import json
import logging
import threading
from contextlib import suppress

import pytest

from conftest import Serve, Served
from hubbub import Connection, Hubbub, Message, Room, Settings
from hubbub.protocol.bookmarks import Bookmark, read_bookmark
from hubbub.protocol.envelope import Position
from transports.raw import Line, request
from transports.streams import EVENTS, JSON_LINES, At, Stream, ask
from transports.test_asgi import running

WITHIN = 10.0


class Say(Message):
    text: str


class Many(Message):
    count: int
    first: int = 0
    size: int = 1000


class Whisper(Message):
    text: str


class Remind(Message):
    text: str


class Chat:
    """A hub with rooms of every kind, and who came and left."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.hub = Hubbub(settings)
        self.left: list[str] = []
        self.gone = threading.Event()
        self.wait = threading.Event()
        for name, slow in (("chat", "disconnect"), ("drop", "drop"), ("conflate", "conflate")):
            rooms = self.hub.room(f"{name}/{{name}}", history=1000, presence=name == "chat", slow=slow)

            @rooms.on_message
            async def say(room: Room, message: Say) -> None:
                await room.send(message)

            @rooms.on_message
            async def whisper(connection: Connection, room: Room, message: Whisper) -> None:
                await room.send(message, ephemeral=True)

            @rooms.on_message
            async def many(room: Room, message: Many) -> None:
                key = "the one" if room.name.startswith("conflate") else None
                for number in range(message.first, message.first + message.count):
                    await room.send(Say(text=f"{number} " + "x" * message.size), key=key)

        @self.hub.authenticate
        async def who(connection: Connection) -> str | None:
            return connection.token

        @self.hub.on_message
        async def remind(message: Remind) -> None:
            await self.hub.user("ada").send(message)

        @self.hub.on_disconnect
        async def note(connection: Connection) -> None:
            self.left.append(connection.id)
            self.gone.set()


@pytest.fixture
def chat() -> Chat:
    return Chat()


@pytest.fixture
def served(serve: Serve, chat: Chat) -> Served:
    return serve(chat.hub)


def room_path(*rooms: str, **query: str) -> str:
    parts = [f"room={room}" for room in rooms] + [f"{name}={value}" for name, value in query.items()]
    return "/?" + "&".join(parts)


def texts(stream: Stream, count: int) -> list[str]:
    return [stream.until("say")["data"]["text"] for _ in range(count)]


def say(room: str, text: str) -> dict[str, object]:
    return {"type": "say", "room": room, "data": {"text": text}}


class TestWhatIsSaid:
    @pytest.mark.parametrize("accept", [EVENTS, JSON_LINES])
    def test_the_line_s_name_comes_before_the_welcome(self, served, accept):
        with Stream(served, accept=accept) as stream:
            instance, name, secret = stream.token.rsplit(".", 2)
            assert instance
            assert len(name) == 16
            assert len(secret) == 32
            assert stream.receive()["type"] == "$welcome"

    @pytest.mark.parametrize("accept", [EVENTS, JSON_LINES])
    def test_members_of_a_room_on_every_kind_of_line_get_its_messages(self, served, accept):
        with Stream(served, accept=accept) as ada, Stream(served) as bob:
            ada.join("chat/lobby")
            bob.join("chat/lobby")
            assert bob.post(say("chat/lobby", "hi")).status == 204
            told = [stream.until("say") for stream in (ada, bob)]
            assert told[0] == told[1]
            assert told[0]["data"] == {"text": "hi"}

    def test_letters_of_all_kinds_stay_on_one_line(self, served):
        with Stream(served, room_path("chat/lobby")) as stream:
            text = "a\nb\r\nc\u2028d\u0085 é 🎈 data: x\n\n"
            assert stream.post(say("chat/lobby", text)).status == 204
            assert texts(stream, 1) == [text]

    def test_a_silent_line_has_a_heartbeat(self, serve):
        served = serve(Chat(Settings(ping_interval=0.2)).hub)
        for accept in (EVENTS, JSON_LINES):
            with Stream(served, accept=accept) as stream:
                stream.until("$welcome")
                for _ in range(3):
                    stream.heartbeat()

    def test_a_client_that_only_reads_is_kept(self, serve):
        served = serve(Chat(Settings(ping_interval=0.1, ping_timeout=0.1)).hub)
        with Stream(served) as stream:
            stream.until("$welcome")
            for _ in range(10):
                stream.heartbeat()
            assert stream.answer(type="$ping", id=1)["type"] == "$pong"


class TestRoomsOfTheRequest:
    @pytest.mark.parametrize("accept", [EVENTS, JSON_LINES])
    def test_they_are_joined(self, served, accept):
        with Stream(served, room_path("chat/one", "chat/two", "chat/one"), accept=accept) as stream:
            acks = [stream.until("$ack")["room"] for _ in range(2)]
            assert acks == ["chat/one", "chat/two"]
            assert stream.post(say("chat/two", "hi")).status == 204
            assert stream.until("say")["room"] == "chat/two"

    def test_one_that_there_is_not_is_told(self, served):
        with Stream(served, room_path("nowhere", "chat/one")) as stream:
            error = stream.until("$error")
            assert (error["room"], error["data"]["code"]) == ("nowhere", "unknown_room")
            assert stream.until("$ack")["room"] == "chat/one"

    def test_there_may_be_more_of_them_than_wait_for_a_session_at_once(self, serve):
        served = serve(Chat(Settings(max_inbox=4)).hub)
        rooms = [f"chat/{number}" for number in range(50)]
        with Stream(served, room_path(*rooms)) as stream:
            assert stream.post(say("chat/49", "last")).status == 204
            assert [stream.until("$ack")["room"] for _ in rooms] == rooms
            assert texts(stream, 1) == ["last"]

    def test_what_is_posted_meanwhile_comes_after_them(self, served):
        with Stream(served, room_path("chat/lobby")) as stream:
            assert stream.post(say("chat/lobby", "at once")).status == 204
            assert texts(stream, 1) == ["at once"]


class TestLastEventID:
    def test_it_is_where_the_session_is_taken_up(self, served):
        with Stream(served, room_path("chat/lobby")) as stream, Stream(served) as other:
            other.join("chat/lobby")
            assert other.post(say("chat/lobby", "one")).status == 204
            assert texts(stream, 1) == ["one"]
            stream.leave()
            assert other.post(say("chat/lobby", "two"), say("chat/lobby", "three")).status == 204
            with Stream(served, "/", {"Last-Event-ID": stream.last_event_id}) as again:
                assert again.receive()["data"]["resumed"] is False
                welcome = again.receive()
                assert (welcome["type"], welcome["id"], welcome["data"]["resumed"]) == (
                    "$welcome",
                    "$resume",
                    True,
                )
                assert texts(again, 2) == ["two", "three"]
                assert other.post(say("chat/lobby", "four")).status == 204
                assert texts(again, 1) == ["four"]

    def test_the_query_may_have_it(self, served):
        with Stream(served, room_path("chat/lobby")) as stream:
            assert stream.post(say("chat/lobby", "one")).status == 204
            stream.until("say")
            stream.answer(type="$ping", id=1)
        with Stream(served, room_path(last_event_id=stream.last_event_id)) as again:
            assert [again.receive()["data"]["resumed"] for _ in range(2)] == [False, True]

    def test_a_message_and_where_it_was_come_in_one_event(self, served):
        with Stream(served, room_path("chat/lobby")) as stream, Stream(served) as other:
            stream.until("$ack")
            other.join("chat/lobby")
            stream.until("$joined")
            for number in range(1, 4):
                assert other.post(say("chat/lobby", str(number))).status == 204
                assert texts(stream, 1) == [str(number)]
                rooms = read_bookmark(stream.last_event_id).rooms
                assert rooms["chat/lobby"].offset == number

    def test_it_is_not_said_again_where_nothing_moved(self, served):
        with Stream(served, room_path("chat/lobby")) as stream:
            stream.until("$ack")
            first, stream.last_event_id = stream.last_event_id, ""
            assert first
            for number in range(3):
                assert stream.answer(type="$ping", id=number)["type"] == "$pong"
                whisper = {"type": "whisper", "room": "chat/lobby", "data": {"text": "psst"}}
                assert stream.post(whisper).status == 204
                assert stream.until("whisper")["data"] == {"text": "psst"}
            assert stream.last_event_id == ""
            assert stream.post(say("chat/lobby", "one")).status == 204
            stream.until("say")
            assert stream.last_event_id not in ("", first)

    def test_a_room_that_was_joined_by_a_post_is_in_it(self, served):
        with Stream(served, room_path("chat/one")) as stream:
            stream.join("chat/two")
        with Stream(served, room_path("chat/one"), {"Last-Event-ID": stream.last_event_id}) as again:
            again.receive()
            assert set(again.receive()["data"]["rooms"]) == {"chat/one", "chat/two"}

    def test_rooms_of_the_request_that_are_not_in_it_are_joined_too(self, served):
        with Stream(served, room_path("chat/one")) as stream:
            stream.until("$ack")
        with Stream(
            served, room_path("chat/one", "chat/two"), {"Last-Event-ID": stream.last_event_id}
        ) as again:
            assert again.until("$ack")["room"] == "chat/two"
            assert set(read_bookmark(again.last_event_id).rooms) == {"chat/one", "chat/two"}

    def test_a_session_that_can_t_be_taken_up_joins_its_rooms_from_their_positions(self, served):
        with Stream(served, room_path("chat/one", "chat/two")) as stream, Stream(served) as other:
            other.join("chat/one")
            stream.until("$joined")
            assert other.post(say("chat/one", "seen")).status == 204
            assert texts(stream, 1) == ["seen"]
            stream.leave()
            assert other.post(say("chat/one", "missed")).status == 204
            bookmark = read_bookmark(stream.last_event_id)
            forged = Bookmark("forged", bookmark.rooms).text()
            with Stream(served, "/", {"Last-Event-ID": forged or ""}) as again:
                assert again.until("$error")["data"]["code"] == "session_refused"
                assert texts(again, 1) == ["missed"]
                assert again.answer(type="$ping", id=1)["type"] == "$pong"
                assert set(read_bookmark(again.last_event_id).rooms) == {"chat/one", "chat/two"}

    def test_what_is_no_longer_kept_is_a_gap(self, serve):
        first, second = serve(Chat().hub), serve(Chat().hub)  # the second has no memory of the first
        with Stream(first, room_path("chat/lobby")) as stream:
            assert stream.post(say("chat/lobby", "lost")).status == 204
            stream.until("say")
        with Stream(second, room_path("chat/lobby"), {"Last-Event-ID": stream.last_event_id}) as again:
            assert again.until("$error")["data"]["code"] == "session_refused"
            assert again.until("$ack")["room"] == "chat/lobby"
            gap = again.receive()
            assert (gap["type"], gap["room"]) == ("$gap", "chat/lobby")
            assert again.post(say("chat/lobby", "found")).status == 204
            assert texts(again, 1) == ["found"]

    @pytest.mark.parametrize("mark", ["x", "%00", "A" * 5000, "$nonsense", "lost"])
    def test_what_can_t_be_read_is_a_loss_that_is_told(self, served, mark):
        with Stream(served, room_path("chat/lobby"), {"Last-Event-ID": mark}) as stream:
            assert stream.until("$error")["data"]["code"] == "session_refused"
            assert stream.until("$ack")["room"] == "chat/lobby"

    def test_an_inbox_is_part_of_it(self, served):
        with Stream(served, room_path(token="ada")) as stream, Stream(served) as other:
            assert other.post({"type": "remind", "data": {"text": "one"}}).status == 204
            assert stream.until("remind")["data"] == {"text": "one"}
            stream.leave()
            other.answer(type="remind", id=1, data={"text": "two"})
            with Stream(served, room_path(token="ada"), {"Last-Event-ID": stream.last_event_id}) as again:
                assert again.until("remind")["data"] == {"text": "two"}
                assert other.post({"type": "remind", "data": {"text": "three"}}).status == 204
                assert again.receive()["data"] == {"text": "three"}

    def test_an_inbox_without_its_session_goes_on_where_it_was(self, served):
        with Stream(served, room_path(token="ada")) as stream, Stream(served) as other:
            assert other.post({"type": "remind", "data": {"text": "one"}}).status == 204
            stream.until("remind")
            stream.leave()
            other.answer(type="remind", id=1, data={"text": "two"})
            rooms = {**read_bookmark(stream.last_event_id).rooms, "$user/eve": Position("x", 1)}
            forged = Bookmark("forged", rooms).text()
            with Stream(served, room_path(token="ada"), {"Last-Event-ID": forged or ""}) as again:
                assert again.until("remind")["data"] == {"text": "two"}

    def test_somebody_else_s_brings_nothing_of_theirs(self, served):
        with Stream(served, room_path(token="ada")) as stream, Stream(served) as other:
            assert other.post({"type": "remind", "data": {"text": "one"}}).status == 204
            stream.until("remind")
            with Stream(served, room_path(token="bob"), {"Last-Event-ID": stream.last_event_id}) as thief:
                assert thief.until("$error")["data"]["code"] == "session_refused"
                other.answer(type="remind", id=1, data={"text": "secret"})
                assert thief.answer(type="$ping", id=1)["type"] == "$pong"
            assert stream.until("remind")["data"] == {"text": "secret"}

    def test_the_line_that_it_was_on_is_replaced_and_does_not_come_back(self, served):
        with Stream(served, room_path("chat/lobby")) as stream:
            stream.until("$ack")
            with Stream(served, "/", {"Last-Event-ID": stream.last_event_id}) as again:
                again.until("$welcome")
                assert stream.closed()[0] == 4409
                answer = ask(served, "GET", headers={"Accept": EVENTS, "Last-Event-ID": stream.last_event_id})
                assert (answer.status, answer.body) == (204, b"")

    def test_too_many_rooms_for_it_leave_the_last_one(self, served):
        with Stream(served, room_path("chat/one")) as stream:
            stream.until("$ack")
            before = stream.last_event_id
            stream.post(*({"type": "$join", "id": n, "room": f"chat/{n}" + "x" * 200} for n in range(20)))
            while stream.until("$ack")["id"] != 19:
                pass
            rooms = len(read_bookmark(stream.last_event_id).rooms)
            assert stream.last_event_id != before
            assert 1 < rooms < 21
            assert len(stream.last_event_id) <= 4096

    def test_a_silent_line_is_told_a_new_one_before_the_old_one_is_of_no_use(self, serve):
        served = serve(Chat(Settings(ping_interval=0.1, session_lifetime=2.0)).hub)
        with Stream(served, room_path("chat/lobby")) as stream:
            stream.until("$ack")
            first = stream.last_event_id
            while stream.last_event_id == first:
                stream.heartbeat()
            before, after = read_bookmark(first), read_bookmark(stream.last_event_id)
            assert before.rooms == after.rooms
            assert before.session != after.session

    def test_one_that_fits_again_is_told_again(self, served):
        with Stream(served) as stream:
            rooms = [f"chat/{number}" + "x" * 200 for number in range(20)]
            for number, room in enumerate(rooms):
                assert stream.answer(type="$join", id=number, room=room)["type"] == "$ack"
            before = stream.last_event_id
            for number, room in enumerate(rooms):
                assert stream.answer(type="$leave", id=number, room=room)["type"] == "$ack"
            for number in range(100):
                stream.answer(type="$ping", id=number)
            assert stream.last_event_id != before
            assert read_bookmark(stream.last_event_id).rooms == {}

    def test_a_stream_of_json_has_none_and_can_resume(self, served):
        with Stream(served, room_path("chat/lobby"), accept=JSON_LINES) as stream:
            session = stream.until("$welcome")["data"]["session"]
            at = stream.until("$ack")["data"]
            assert stream.post(say("chat/lobby", "one")).status == 204
        with Stream(served, accept=JSON_LINES) as again:
            data = {"session": session, "rooms": {"chat/lobby": at}}
            assert again.post({"type": "$resume", "id": 1, "data": data}).status == 204
            again.until("$welcome")
            assert again.until("$welcome")["data"]["resumed"] is True
            assert texts(again, 1) == ["one"]


class TestComingBack:
    def test_a_stop_says_when_and_why(self, serve):
        chat = Chat()
        served = serve(chat.hub)
        with Stream(served) as events, Stream(served, accept=JSON_LINES) as lines:
            for stream in (events, lines):
                stream.until("$welcome")
            served.begin_to_stop()
            for stream in (events, lines):
                assert "after" in stream.until("$drain")["data"]
                assert stream.closed() == (1012, "the server restarts")
            assert events.retry is not None
            assert events.retry >= 1000

    def test_each_is_told_another_time_to_come_back_after_a_crash(self, served):
        times = set()
        for _ in range(5):
            with Stream(served) as stream:
                assert stream.retry is not None
                assert 1000 <= stream.retry < 2000
                times.add(stream.retry)
        assert len(times) > 1

    @pytest.mark.parametrize(
        ("code", "status"), [(4401, 204), (1000, 204), (4403, 204), (4000, 200), (1013, 200)]
    )
    def test_who_must_not_come_back_is_told_so_in_the_only_way_that_counts(self, serve, code, status):
        hub = Hubbub()

        class Close(Message):
            code: int

        @hub.on_message
        async def close(connection: Connection, message: Close) -> None:
            connection.start_close(message.code, "because")

        served = serve(hub)
        with Stream(served) as stream:
            assert stream.post({"type": "close", "data": {"code": code}}).status == 204
            assert stream.closed() == (code, "because")
            headers = {"Accept": EVENTS, "Last-Event-ID": stream.last_event_id}
            assert ask(served, "HEAD", headers=headers).status == status


class TestEnding:
    def test_a_client_that_goes_is_noticed_at_once(self, served, chat):
        with Stream(served) as stream, Stream(served, room_path("chat/lobby")) as other:
            other.until("$ack")
            stream.join("chat/lobby")
            other.until("$joined")
            stream.leave()
            assert other.until("$left")["room"] == "chat/lobby"
            assert chat.gone.wait(WITHIN)

    def test_so_is_one_that_goes_while_its_message_is_handled(self, serve):
        hub = Hubbub()
        handling, gone = threading.Event(), threading.Event()

        class Wait(Message):
            pass

        @hub.on_message
        async def wait(connection: Connection, message: Wait) -> None:
            handling.set()
            await connection.wait_closed()
            gone.set()

        served = serve(hub)
        with Stream(served) as stream:
            assert stream.post({"type": "wait"}).status == 204
            assert handling.wait(WITHIN)
        assert gone.wait(WITHIN)

    def test_so_is_one_that_goes_before_its_login_is_over(self, serve):
        hub = Hubbub()
        asked, cancelled = threading.Event(), threading.Event()

        @hub.authenticate
        async def who(connection: Connection) -> str | None:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        served = serve(hub)
        with Stream(served):
            assert asked.wait(WITHIN)
        assert cancelled.wait(WITHIN)

    def test_so_is_one_that_has_asked_for_more_on_the_same_connection(self, serve):
        chat = Chat(Settings(ping_interval=0.2))
        with Line(("127.0.0.1", serve(chat.hub).port)) as line:
            line.send(request("/", f"Accept: {EVENTS}") + request("/healthz", "Accept: */*"))
            assert line.response().status == 200
            line.socket.recv(1)
            line.vanish()
        assert chat.gone.wait(WITHIN)

    def test_a_line_that_takes_no_close_is_cut(self, serve, caplog):
        chat = Chat(Settings(close_timeout=0.3, max_outbox=100_000))
        served = serve(chat.hub)
        with self.blocked(served) as slow:
            while len(chat.left) < 2:
                assert chat.gone.wait(WITHIN)
                chat.gone.clear()
            kinds = []
            with suppress(EOFError, OSError, http.client.HTTPException):
                while True:
                    kinds.append(slow.receive()["type"])
            assert "$close" not in kinds
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    def test_a_post_to_a_line_that_is_about_to_close_is_for_the_next_one(self, serve):
        chat = Chat(Settings(max_outbox=100_000))
        served = serve(chat.hub)
        with self.blocked(served) as slow:
            answer = slow.post({"type": "$ping"})
            assert (answer.status, answer.failure["code"]) == (404, "unknown_line")

    def blocked(self, served: Served) -> Stream:
        """Return a line whose close waits for a client that does not read."""
        slow = Stream(served, room_path("chat/lobby"), receive_buffer=4096)
        slow.until("$ack")
        with Stream(served) as other:
            other.join("chat/lobby")
            number = 0
            while slow.post({"type": "$pong"}).status == 204:
                # No more at once than one who reads takes.
                number += 1
                data = {"count": 4, "size": 20_000}
                assert other.answer(type="many", id=number, room="chat/lobby", data=data)["type"] == "$ack"
        return slow


class TestSlowReaders:
    @pytest.fixture
    def small(self, serve: Serve) -> Served:
        return serve(Chat(Settings(max_outbox=100_000, close_timeout=2.0)).hub)

    def flood(self, served: Served, room: str) -> Stream:
        """Return a line that did not read while its room had 10 MB, and what it says after that."""
        slow = Stream(served, room_path(room), receive_buffer=4096)
        slow.until("$ack")
        with Stream(served) as other:
            other.join(room)
            for first in range(0, 800, 4):
                # No more at once than one who reads takes.
                data = {"first": first, "count": 4, "size": 20_000}
                done = other.answer(type="many", id=first, room=room, data=data)
                assert done["type"] == "$ack", done
            assert other.answer(**say(room, "the end"), id="end")["type"] == "$ack"
        return slow

    def test_one_is_disconnected_and_comes_back_for_the_rest(self, small):
        with self.flood(small, "chat/lobby") as slow:
            seen = []
            # Where its end can't be told in time, the line is cut, in the middle of an event perhaps.
            with suppress(EOFError, OSError, http.client.HTTPException):
                while (envelope := slow.receive())["type"] != "$close":
                    if envelope["type"] == "say":
                        seen.append(int(envelope["data"]["text"].split()[0]))
                assert envelope["data"]["code"] == 4513
            assert len(seen) < 800
            with Stream(small, "/", {"Last-Event-ID": slow.last_event_id}) as again:
                while (text := again.until("say")["data"]["text"]) != "the end":
                    number = int(text.split()[0])
                    # Of several events that were cut together, those that had come whole come again.
                    if number > seen[-1]:
                        seen.append(number)
            assert seen == list(range(800))

    def test_one_in_a_room_that_drops_is_told_of_a_gap(self, small):
        with self.flood(small, "drop/lobby") as slow:
            kinds, numbers = set(), []
            while (envelope := slow.receive())["data"] != {"text": "the end"}:
                kinds.add(envelope["type"])
                if envelope["type"] == "say":
                    numbers.append(int(envelope["data"]["text"].split()[0]))
            assert "$gap" in kinds
            assert numbers == sorted(set(numbers))
            assert len(numbers) < 800

    def test_one_in_a_room_that_conflates_gets_the_newest(self, small):
        with self.flood(small, "conflate/lobby") as slow:
            numbers = []
            while (envelope := slow.receive())["data"] != {"text": "the end"}:
                assert envelope["type"] != "$gap"
                if envelope["type"] == "say":
                    numbers.append(int(envelope["data"]["text"].split()[0]))
            assert numbers[-1] == 799
            assert len(numbers) < 800


class TestLimits:
    def test_each_envelope_counts(self, serve):
        served = serve(Chat(Settings(max_message_burst=50, max_message_rate=1)).hub)
        with Stream(served) as stream:
            stream.until("$welcome")
            answer = stream.post(*({"type": "$pong"} for _ in range(51)))
            assert answer.status == 404
            assert stream.closed()[0] == 4529

    def test_a_post_waits_for_a_session_that_is_behind(self, serve):
        hub = Hubbub(Settings(max_inbox=2))
        let = threading.Event()

        class Wait(Message):
            pass

        @hub.on_message
        def wait(message: Wait) -> None:
            let.wait(WITHIN)

        served = serve(hub)
        with Stream(served) as stream:
            stream.until("$welcome")
            statuses: list[int] = []

            def post() -> None:
                statuses.append(stream.post(*({"type": "wait", "id": n} for n in range(8))).status)

            posting = threading.Thread(target=post)
            posting.start()
            assert stream.post({"type": "$ping"}, **{"Hubbub-Line": "a.b.c"}).status == 404
            assert not statuses
            let.set()
            assert [stream.until("$ack")["id"] for _ in range(8)] == list(range(8))
            posting.join(WITHIN)
            assert statuses == [204]


def test_every_text_of_a_line_is_json(served):
    with Stream(served, accept=JSON_LINES) as stream:
        assert stream.post({"type": "$ping", "id": "é"}).status == 204
        stream.until("$welcome")
        line = stream.response.readline()
        assert json.loads(line) == {"type": "$pong", "id": "é"}


class TestUnderPlainUvicorn:
    """Without what hubbub's own server offers."""

    @pytest.mark.parametrize("accept", [EVENTS, JSON_LINES])
    def test_a_stream_talks_and_ends(self, accept):
        chat = Chat()
        with running(chat.hub, "websockets-sansio") as server:
            there = At(int(server.url.rpartition(":")[2]))
            with Stream(there, room_path("chat/lobby"), accept=accept) as stream:
                assert stream.post(say("chat/lobby", "hi")).status == 204
                assert texts(stream, 1) == ["hi"]
                assert (stream.delete().status, stream.closed()) == (204, (1000, ""))
            with Stream(there, accept=accept) as stream:
                stream.until("$welcome")
                chat.gone.clear()
            assert chat.gone.wait(WITHIN)

    def test_a_client_that_reads_slowly_holds_up_nobody_and_is_cut(self):
        chat = Chat(Settings(close_timeout=0.3, max_outbox=100_000))
        with running(chat.hub, "websockets-sansio") as server:
            there = At(int(server.url.rpartition(":")[2]))
            with TestEnding().blocked(there):
                while len(chat.left) < 2:
                    assert chat.gone.wait(WITHIN)
                    chat.gone.clear()
