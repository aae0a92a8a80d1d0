"""Clients of HTTP lines that see every header and every line: blocking, from the standard library."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from conftest import Served

ARRIVES_WITHIN = 10.0

EVENTS = "text/event-stream"
JSON_LINES = "application/x-ndjson"


class At(NamedTuple):
    """Where something is served that is no :class:`conftest.Served`."""

    port: int


class Answer:
    """The whole answer to a request."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def failure(self) -> dict[str, Any]:
        return json.loads(self.body)


def ask(
    served: Served | At,
    method: str,
    path: str = "/",
    headers: dict[str, str] | None = None,
    body: bytes | Iterator[bytes] | None = None,
) -> Answer:
    """Return the answer to one request, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=ARRIVES_WITHIN)
    try:
        connection.request(method, path, body, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Stream:
    """A line: its answer is read event by event, or line by line."""

    def __init__(
        self,
        served: Served | At,
        path: str = "/",
        headers: dict[str, str] | None = None,
        *,
        accept: str = EVENTS,
        receive_buffer: int | None = None,
    ) -> None:
        self._served = served
        self._path = path.partition("?")[0]
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=ARRIVES_WITHIN)
        if receive_buffer is not None:
            self._connection.sock = socket.socket()
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._connection.sock.settimeout(ARRIVES_WITHIN)
            self._connection.sock.connect(("127.0.0.1", served.port))
        self._connection.request("GET", path, headers={"Accept": accept, **(headers or {})})
        self.socket = self._connection.sock
        self.response = self._connection.getresponse()
        self._accept = accept
        self.last_event_id = ""
        self.retry: int | None = None
        self.heartbeats = 0
        self.token = ""
        if self.response.status == 200:
            self.token = self.receive()["data"]["line"]

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *problem: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Go away without a word."""
        self.response.close()
        self._connection.close()
        self.socket.close()

    # What the server says

    def receive(self) -> dict[str, Any]:
        """Return the next envelope."""
        while True:
            envelope = self._event() if self._accept == EVENTS else self._line()
            if envelope is not None:
                return envelope

    def heartbeat(self) -> None:
        """Wait for a heartbeat, and nothing else."""
        before = self.heartbeats
        while self.heartbeats == before:
            envelope = self._event() if self._accept == EVENTS else self._line()
            assert envelope is None, envelope

    def _line(self) -> dict[str, Any] | None:
        line = self.response.readline()
        if not line:
            raise EOFError
        if line == b"\n":
            self.heartbeats += 1
            return None
        return json.loads(line)

    def _event(self) -> dict[str, Any] | None:
        """Read a block of fields, as an EventSource does (WHATWG HTML 9.2.6)."""
        data, last_event_id = None, None
        while line := self.response.readline():
            if line == b"\n":
                if last_event_id is not None:
                    self.last_event_id = last_event_id
                return None if data is None else json.loads(data)
            name, _, value = line.decode().rstrip("\n").partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                assert data is None, "an envelope has one line"
                data = value
            elif name == "id":
                last_event_id = value
            elif name == "retry":
                self.retry = int(value)
            else:
                assert (name, value) == ("", ""), line
                self.heartbeats += 1
        raise EOFError

    def until(self, kind: str) -> dict[str, Any]:
        """Return the next envelope of a type; those before it are dropped."""
        while (envelope := self.receive())["type"] != kind:
            pass
        return envelope

    def closed(self) -> tuple[int, str]:
        """Return code and reason of the close that comes, and see that nothing follows it."""
        data = self.until("$close")["data"]
        assert self.response.read() == b""
        return data["code"], data["reason"]

    def answer(self, **envelope: Any) -> dict[str, Any]:
        """Send a request, and return the answer to it."""
        answered = self.post(envelope)
        assert answered.status == 204, answered.body
        while (received := self.receive()).get("id") != envelope["id"]:
            pass
        return received

    def join(self, room: str) -> dict[str, Any]:
        joined = self.answer(type="$join", id=f"join {room}", room=room)
        assert joined["type"] == "$ack", joined
        return joined

    # What the client says

    def post(self, *envelopes: object, sequence: int | None = None, **headers: str) -> Answer:
        """Send one envelope, or several."""
        bodies = [json.dumps(envelope).encode() for envelope in envelopes]
        media = "application/json" if len(bodies) == 1 else JSON_LINES
        return self.post_bytes(b"\n".join(bodies), sequence=sequence, **{"Content-Type": media, **headers})

    def post_bytes(self, body: bytes, *, sequence: int | None = None, **headers: str) -> Answer:
        own = {"Hubbub-Line": self.token, "Content-Type": "application/json"}
        if sequence is not None:
            own["Hubbub-Sequence"] = str(sequence)
        return ask(self._served, "POST", self._path, headers={**own, **headers}, body=body)

    def delete(self) -> Answer:
        return ask(self._served, "DELETE", self._path, headers={"Hubbub-Line": self.token})
