"""A client that changes its transport while both sides speak: every message arrives once and in order.

The client keeps to the protocol, and takes its time with each step: a poll may be outstanding, an answer on
its way, messages sent before, during and after the probe. It is told nothing by the server's insides.
"""

import asyncio
import json
from dataclasses import dataclass, field

from hypothesis import event, given, settings
from hypothesis import strategies as st

from fake_transport import FakeTransport
from hubbub import Settings
from hubbub.transports.engineio import EngineIO, EngineSocket
from transports.engine_echo import Echo

ENDS_WITHIN = 20.0

MOVES = st.sampled_from(
    [
        "server sends",
        "server sends",
        "server sends much",
        "client sends",
        "client sends",
        "poll",
        "poll",
        "answer arrives",
        "answer arrives",
        "open websocket",
        "probe",
        "upgrade",
        "upgrade",
        "give up websocket",
        "server pauses",
        "server resumes",
        "websocket is full",
        "websocket takes more",
        "turn",
        "turn",
        "turns",
    ]
)


class Line(FakeTransport):
    """A WebSocket; its framing tells text from binary data."""

    @staticmethod
    def framing(payload, binary):
        return payload if binary else payload.decode()

    def close(self, code, reason):
        super().close(code, reason)
        self.asked.append("close")

    reading = True

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class Exchange:
    """A request whose answer arrives at the client when the client lets it."""

    def __init__(self, application, method, query, body=b""):
        self.answer = None
        self.may_arrive = asyncio.Event()
        self._body = body
        self._asked = False
        scope = {
            "type": "http",
            "method": method,
            "path": "/engine.io/",
            "query_string": query.encode(),
            "headers": [],
            "client": None,
        }
        self.task = asyncio.create_task(application(scope, self._receive, self._send))
        self._status = 0

    async def _receive(self):
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        return await asyncio.Event().wait()

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self._status = message["status"]
            return
        # The server may be slow to get rid of it, or the network.
        await self.may_arrive.wait()
        self.answer = self._status, message["body"].decode()


@dataclass
class World:
    """Client and server, and all that each was sent by the other."""

    engine: EngineIO | None = None
    echo: Echo | None = None
    to_client: list[str] = field(default_factory=list)
    to_server: list[str] = field(default_factory=list)
    got: list[str] = field(default_factory=list)
    session: str = ""
    poll: Exchange | None = None
    post: Exchange | None = None
    waiting: list[str] = field(default_factory=list)
    line: Line | None = None
    serving: asyncio.Task | None = None
    state: str = "polling"
    read: int = 0
    held: list[str] = field(default_factory=list)
    full: bool = False
    told: list[str] = field(default_factory=list)

    def open_engine_session(self, socket: EngineSocket) -> Echo:
        socket.keep()
        self.echo = Echo(socket, echoes=False, on_message=self.reads)
        return self.echo

    def reads(self, message):
        assert self.echo.socket.reading, f"{message} came while nothing was to be read"

    # Moves

    def move(self, name):
        getattr(self, name.replace(" ", "_"))()

    def turn(self):
        pass

    turns = turn

    def server_sends(self):
        self.to_client.append(f"s{len(self.to_client)}")
        self.echo.socket.send(self.to_client[-1])

    def server_sends_much(self):
        for _ in range(20):
            self.server_sends()

    def client_sends(self):
        self.to_server.append(f"c{len(self.to_server)}")
        self.waiting.append("4" + self.to_server[-1])
        self._flush()

    def _flush(self):
        if not self.waiting:
            return
        if self.state == "upgraded":
            for packet in self.waiting:
                self._say(packet)
            self.waiting.clear()
        elif self.state in ("polling", "websocket", "probing") and self.post is None:
            self.post = self._exchange("POST", "\x1e".join(self.waiting).encode())
            self.post.may_arrive.set()
            self.waiting.clear()

    def poll_(self):
        if self.poll is None and self.state in ("polling", "websocket", "probing"):
            self.poll = self._exchange("GET")

    def answer_arrives(self):
        if self.poll is not None:
            self.poll.may_arrive.set()

    def open_websocket(self):
        if self.state == "polling":
            self.state = "websocket"
            self.line = Line()
            self.read = 0
            scope = {
                "type": "websocket",
                "path": "/engine.io/",
                "query_string": f"EIO=4&transport=websocket&sid={self.session}".encode(),
                "headers": [],
                "client": None,
            }
            self.serving = asyncio.create_task(self.engine(scope, None, self._refused))

    async def _refused(self, message):
        """Take the refusal of a WebSocket, which only a session that is over explains."""
        assert message["type"] == "websocket.close"
        assert self.echo.ends

    def probe(self):
        if self.state == "websocket" and self.line.listener is not None:
            self.state = "probing"
            self._say("2probe")

    def upgrade(self):
        if self.state == "probing" and "3probe" in self.line.written:
            self.state = "pausing"

    def give_up_websocket(self):
        if self.state in ("websocket", "probing") and self.line.listener is not None:
            event("gave a WebSocket up")
            self.state = "polling"
            self._cut()

    def _cut(self):
        listener, self.line.listener = self.line.listener, None
        listener.ended(None)

    def server_pauses(self):
        self.echo.socket.pause_reading()

    def server_resumes(self):
        self.echo.socket.resume_reading()

    def websocket_is_full(self):
        if self.state == "upgraded" and not self.full:
            self.full = True
            self.line.listener.pause_writing()

    def websocket_takes_more(self):
        if self.full:
            self.full = False
            self.line.listener.resume_writing()

    # What follows by itself

    def _exchange(self, method, body=b""):
        return Exchange(self.engine, method, f"EIO=4&transport=polling&sid={self.session}", body)

    def _say(self, packet):
        """Say something on the WebSocket; it stays in the socket while the server does not read."""
        self.held.append(packet)
        self._deliver()

    def _deliver(self):
        while self.held and self.line.reading:
            self.line.listener.received(self.held.pop(0))

    def follow(self):
        """Do what the client does by itself: take what has come, go on."""
        for name in ("poll", "post"):
            exchange = getattr(self, name)
            if exchange is not None and exchange.task.done():
                exchange.task.result()
                setattr(self, name, None)
                status, body = exchange.answer
                if self.over and status == 400:
                    continue
                assert status == 200, exchange.answer
                if name == "poll":
                    self._take(body.split("\x1e"))
                else:
                    assert body == "ok"
        if self.state == "pausing" and self.poll is None and self.post is None:
            event("upgraded")
            self._say("5")
            self.state = "upgraded"
        if self.line is not None:
            self._deliver()
        if self.state == "upgraded":
            self._take(self.line.written[self.read :])
            self.read = len(self.line.written)
        self._flush()

    def _take(self, packets):
        for packet in packets:
            if packet[0] == "4":
                self.got.append(packet[1:])
            else:
                assert packet in ("1", "6", "3probe"), packet
                self.told.append(packet)

    def check(self):
        assert self.got == self.to_client[: len(self.got)]
        assert self.echo.messages == self.to_server[: len(self.echo.messages)]
        assert self.echo.ends == []

    async def finish(self):
        """Let the rest arrive."""
        self.server_resumes()
        async with asyncio.timeout(ENDS_WITHIN):
            while (
                self.got != self.to_client or self.echo.messages != self.to_server or self.state == "pausing"
            ):
                if self.state != "pausing":
                    self.poll_()
                self.answer_arrives()
                await asyncio.sleep(0)
                self.follow()
                self.check()

    async def finish_closed(self):
        """Let the rest arrive, and the close behind it."""
        self.echo.socket.close()
        self.server_resumes()
        async with asyncio.timeout(ENDS_WITHIN):
            while not self.over:
                if self.state != "pausing":
                    self.poll_()
                self.answer_arrives()
                await asyncio.sleep(0)
                self.follow()
        assert self.got == self.to_client
        if self.line is not None and self.line.listener is not None:
            assert "close" in self.line.asked
            self._cut()
        assert self.echo.ends == ["forced close"]

    @property
    def over(self):
        """Whether the client was told that the session is over."""
        return "1" in self.told or (self.state == "upgraded" and "close" in self.line.asked)

    async def leave(self):
        self.echo.socket.abort()
        if self.line is not None and self.line.listener is not None:
            self._cut()
        tasks = [each.task for each in (self.poll, self.post) if each is not None]
        if self.poll is not None:
            self.poll.may_arrive.set()
        if self.serving is not None:
            tasks.append(self.serving)
        if tasks:
            await asyncio.wait(tasks, timeout=ENDS_WITHIN)
        assert all(task.done() for task in tasks)
        if self.serving is not None:
            self.serving.result()
        await self.engine.stop()
        assert self.engine.sessions == {}
        assert len(self.engine.schedule) == 0


async def play(moves, *, close=False):
    world = World()

    def websocket(scope, receive, send):
        return world.line, 0.0

    world.engine = EngineIO(
        world.open_engine_session, Settings(), refusal=lambda _: None, websocket=websocket
    )
    opening = Exchange(world.engine, "GET", "EIO=4&transport=polling")
    opening.may_arrive.set()
    await opening.task
    world.session = json.loads(opening.answer[1][1:])["sid"]
    try:
        for move in moves:
            world.move("poll_" if move == "poll" else move)
            for _ in range({"turn": 1, "turns": 5}.get(move, 0)):
                await asyncio.sleep(0)
            world.follow()
            world.check()
        await (world.finish_closed() if close else world.finish())
    finally:
        await world.leave()


@settings(max_examples=400, deadline=None)
@given(st.lists(MOVES, max_size=60), st.booleans())
def test_nothing_is_lost_doubled_or_reordered_while_a_client_changes_over(moves, close):
    asyncio.run(play(moves, close=close))


LEAD = ["open websocket", "turn", "probe", "turn", "upgrade"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(MOVES, max_size=6), min_size=len(LEAD) + 1, max_size=len(LEAD) + 1), st.booleans())
def test_nor_in_changes_that_succeed(between, close):
    moves = list(between[0])
    for step, more in zip(LEAD, between[1:], strict=True):
        moves += [step, *more]
    asyncio.run(play(moves, close=close))
