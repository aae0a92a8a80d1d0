"""A Socket.IO client whose line is cut again and again, also while it changes its transport.

It does what socket.io-client does: it keeps the last offset, and comes back with it. Whatever is on its way
when the line is cut is lost, in both directions, and the server may learn of it late. The room's messages all
arrive, once and in order.
"""

import asyncio
import json
from dataclasses import dataclass, field

from hypothesis import event, given, settings
from hypothesis import strategies as st

from hubbub import Hubbub, Settings
from socketio_chat import Say, chat_hub

ENDS_WITHIN = 5.0
ROOM = "chat/lobby"

MOVES = st.sampled_from(
    [
        "publish",
        "publish",
        "publish",
        "poll",
        "poll",
        "arrives",
        "arrives",
        "arrives",
        "open websocket",
        "open websocket",
        "probe",
        "upgrade",
        "upgrade",
        "cut",
        "cut silently",
        "turns",
        "turns",
    ]
)


class Exchange:
    """A request, or a WebSocket: what the server has sent is at the client when the client looks."""

    def __init__(self, hub, kind, query, method="GET", body=b""):
        self.sent = []
        self.taken = 0
        self.incoming = asyncio.Queue()
        if kind == "http":
            self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        else:
            self.incoming.put_nowait({"type": "websocket.connect"})
        self.kind = kind
        scope = {
            "type": kind,
            "method": method,
            "path": "/socket.io/",
            "root_path": "",
            "query_string": f"EIO=4&{query}".encode(),
            "headers": [(b"user-agent", b"node-XMLHttpRequest")],
            "client": ("127.0.0.1", 1),
            "subprotocols": [],
            "extensions": {},
        }
        self.task = asyncio.create_task(hub(scope, self.incoming.get, self._send))

    async def _send(self, message):
        self.sent.append(message)

    @property
    def whole(self):
        return self.sent and self.sent[-1]["type"] == "http.response.body"

    def say(self, packet):
        self.incoming.put_nowait({"type": "websocket.receive", "text": packet})

    def leave(self):
        self.incoming.put_nowait(
            {"type": "http.disconnect"}
            if self.kind == "http"
            else {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        )


@dataclass
class Client:
    hub: Hubbub
    got: list[int] = field(default_factory=list)
    state: str = "down"
    session: str = ""
    pid: str | None = None
    offset: str | None = None
    connected: bool = False
    joined: bool = False
    recoveries: int = 0
    opening: Exchange | None = None
    poll: Exchange | None = None
    post: Exchange | None = None
    websocket: Exchange | None = None
    to_say: list[str] = field(default_factory=list)
    cut_off: list[Exchange] = field(default_factory=list)
    all: list[Exchange] = field(default_factory=list)

    def _exchange(self, kind, query, method="GET", body=b""):
        exchange = Exchange(self.hub, kind, query, method, body)
        self.all.append(exchange)
        return exchange

    def _request(self, method, body=b""):
        return self._exchange("http", f"transport=polling&sid={self.session}", method, body)

    # What the client decides

    def poll_(self):
        if self.state == "down":
            self.state = "opening"
            self.opening = self._exchange("http", "transport=polling")
        elif self.state in ("polling", "websocket", "probing") and self.poll is None:
            self.poll = self._request("GET")

    def open_websocket(self):
        if self.state == "polling":
            self.state = "websocket"
            self.websocket = self._exchange("websocket", f"transport=websocket&sid={self.session}")

    def probe(self):
        if self.state == "websocket" and self.websocket.sent:
            self.state = "probing"
            self.websocket.say("2probe")

    def upgrade(self):
        if self.state == "probing" and any(each.get("text") == "3probe" for each in self.websocket.sent):
            self.state = "pausing"

    def cut(self, *, silently=False):
        if self.state == "down":
            return
        for exchange in (self.opening, self.poll, self.post, self.websocket):
            if exchange is not None:
                self.cut_off.append(exchange)
        self.opening = self.poll = self.post = self.websocket = None
        self.to_say.clear()
        self.connected = False
        self.state = "down"
        if not silently:
            self.notice()

    def notice(self):
        """The server learns of what was cut."""
        for exchange in self.cut_off:
            exchange.leave()
        self.cut_off.clear()

    # What comes to it

    def arrives(self):
        opening, poll, post, websocket = self.opening, self.poll, self.post, self.websocket
        if opening is not None and opening.whole:
            self.opening = None
            self.session = json.loads(opening.sent[-1]["body"][1:])["sid"]
            self.state = "polling"
            auth = {} if self.pid is None else {"pid": self.pid, "offset": self.offset}
            self.to_say.append("40" + json.dumps(auth))
        if post is not None and post.whole:
            self.post = None
            if post.sent[0]["status"] != 200:
                self.cut()
                return
        if poll is not None and poll.whole:
            self.poll = None
            if poll.sent[0]["status"] != 200:
                self.cut()
                return
            for packet in poll.sent[-1]["body"].decode().split("\x1e"):
                if packet == "1":
                    self.cut()
                    return
                self._take(packet)
        if self.state == "upgraded":
            for message in websocket.sent[websocket.taken :]:
                websocket.taken += 1
                if message["type"] == "websocket.close":
                    self.cut()
                    return
                if message["type"] == "websocket.send" and message["text"] != "3probe":
                    self._take(message["text"])
        self._say()

    def _say(self):
        if self.state == "pausing" and self.poll is None and self.post is None:
            event("upgraded")
            self.state = "upgraded"
            self.websocket.say("5")
        if self.state == "upgraded":
            for packet in self.to_say:
                self.websocket.say(packet)
            self.to_say.clear()
        elif self.state in ("polling", "websocket", "probing") and self.to_say and self.post is None:
            self.post = self._request("POST", "\x1e".join(self.to_say).encode())
            self.to_say.clear()

    def _take(self, packet):
        if packet == "6":
            return
        assert packet[0] == "4", packet
        if packet[1] == "0":
            answer = json.loads(packet[2:])
            assert self.pid in (None, answer["pid"]), "the session was not recovered"
            if self.pid is not None:
                self.recoveries += 1
            self.pid = answer["pid"]
            self.connected = True
            if not self.joined:
                self.to_say.append('420["$join",' + json.dumps({"room": ROOM}) + "]")
        elif packet[1] == "3":
            self.joined = True
        else:
            assert packet[1] == "2", packet
            kind, *arguments = json.loads(packet[2:])
            if kind == "say":
                self.got.append(int(arguments[0]["text"]))
            assert kind != "$gap"
            if arguments and isinstance(arguments[-1], str):
                self.offset = arguments[-1]


async def turns(count=8):
    for _ in range(count):
        await asyncio.sleep(0)


async def until(client, condition):
    async with asyncio.timeout(ENDS_WITHIN):
        while not condition():
            client.poll_()
            await turns(2)
            client.arrives()


async def play(moves):
    hub = chat_hub(Settings(drain=0.0), logins=False)
    hub.socketio()
    async with hub.lifespan():
        client = Client(hub)
        room = hub.rooms[0](name="lobby")
        published = []
        await until(client, lambda: client.joined)
        for move in moves:
            if move == "publish":
                published.append(len(published))
                await room.send(Say(text=str(published[-1])))
            elif move == "turns":
                await turns()
            elif move == "cut silently":
                client.cut(silently=True)
            else:
                getattr(client, "poll_" if move == "poll" else move.replace(" ", "_"))()
            assert client.got == published[: len(client.got)]
        client.notice()
        await until(client, lambda: client.got == published)
        assert client.got == published
        if client.recoveries:
            event("recovered")
        client.cut()
        for exchange in client.all:
            exchange.leave()
        await asyncio.wait([exchange.task for exchange in client.all], timeout=ENDS_WITHIN)
    for exchange in client.all:
        exchange.task.result()


@settings(max_examples=150, deadline=None)
@given(st.lists(MOVES, max_size=50))
def test_whatever_is_cut_the_rooms_messages_arrive_once_and_in_order(moves):
    asyncio.run(play(moves))


LEAD = ["open websocket", "turns", "probe", "turns", "arrives", "upgrade", "arrives", "turns"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(MOVES, max_size=5), min_size=len(LEAD) + 1, max_size=len(LEAD) + 1))
def test_also_where_it_changes_over(between):
    moves = list(between[0])
    for step, more in zip(LEAD, between[1:], strict=True):
        moves += [step, *more]
    asyncio.run(play(moves))
