"""Lines over HTTP: their clients speak in requests of their own, on any connection, to any instance.

A line is named by a token that only its client was told. What a request asks of a line passes through
:meth:`Lines.ask`, which finds the line here or, by a relay, on the instance that holds it.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import msgspec

from ..protocol.envelope import Failure

MOST_IN_A_POST = 1000
"""Envelopes in the body of one POST."""


class LineRequest(msgspec.Struct, frozen=True, array_like=True):
    """What a request asks of a line.

    `number` is the ``Hubbub-Sequence`` of a POST, if it has one, and the ``Hubbub-Received`` of a poll. The
    `body` of a POST is one envelope, or one in each of `several` lines.
    """

    kind: Literal["post", "poll", "give_up", "delete"]
    """To give up is to have the poll of that `number` answered at once: nobody could wait for it any more."""
    line: str
    """The line's token: keep it out of logs."""
    number: int | None = None
    several: bool = False
    body: bytes = b""


class LineAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The answer to such a request: an HTTP status, and a body of JSON, or none."""

    status: int
    body: bytes = b""
    retry: bool = False
    """Whether the same request may succeed in a moment."""


class HTTPLine(Protocol):
    """A line that is spoken to in requests of their own."""

    @property
    def max_message(self) -> int:
        """Size in bytes of the largest body of a POST to let in."""

    async def post(self, messages: list[str], sequence: int | None) -> LineAnswer:
        """Take a client's messages, in order; wait, for a bounded time, while its session is behind."""

    def poll(self, received: int) -> Awaitable[LineAnswer]:
        """Take that the client has the first `received` messages; answer with those after them.

        An Engine.IO session is told the poll's own number instead; below zero, that this one was given up.
        Where it returns a future, a poll that waits takes no task.
        """

    async def leave(self) -> LineAnswer:
        """End the line: its client is done."""


Relay = Callable[[str, LineRequest], Awaitable[LineAnswer]]
"""Asks another instance, by its name, and returns the answer; :data:`UNKNOWN` if none comes."""


def failed(status: int, code: str, message: str, *, retry: bool = False) -> LineAnswer:
    """Return the answer to a request that fails: the data of an ``$error``."""
    return LineAnswer(status, msgspec.json.encode(Failure(code, message, retry)), retry)


TAKEN = LineAnswer(204)
UNKNOWN = failed(404, "unknown_line", "There is no such line now; open a new one and resume the session.")


class Lines:
    """The HTTP lines of this process, by what their tokens name.

    `instance` returns this instance's name; nothing while the hub does not run.
    """

    def __init__(self, instance: Callable[[], str]) -> None:
        self._instance = instance
        self._lines: dict[str, tuple[str, HTTPLine]] = {}
        self.relay: Relay | None = None
        """The way to the lines of other instances, if there is one."""

    def __len__(self) -> int:
        return len(self._lines)

    def open(self, line: HTTPLine) -> str:
        """Return a new line's token: its instance, its own name there, and a secret."""
        name = secrets.token_hex(8)
        token = f"{self._instance()}.{name}.{secrets.token_urlsafe(24)}"
        self._lines[name] = token, line
        return token

    def close(self, token: str) -> None:
        """Forget a line; nothing if it is forgotten."""
        self._lines.pop(_parts(token)[1], None)

    def find(self, token: str) -> HTTPLine | None:
        """Return the line of this process that a token is of, if all of it is right."""
        known = self._lines.get(_parts(token)[1])
        if known is None or not hmac.compare_digest(token.encode(), known[0].encode()):
            return None
        return known[1]

    def elsewhere(self, token: str) -> str | None:
        """Return the instance that a token says its line is on, if that is another one."""
        instance, name, secret = _parts(token)
        own = self._instance()
        return instance if name and secret and instance and own and instance != own else None

    async def ask(self, request: LineRequest) -> LineAnswer:
        """Have a line do what a request asks, wherever it is."""
        instance = self.elsewhere(request.line)
        if instance is None:
            return await self.take(request)
        return UNKNOWN if self.relay is None else await self.relay(instance, request)

    def answer(self, request: LineRequest) -> Awaitable[LineAnswer]:
        """Have a line of this process do what a request asks that came to another one."""
        line = self.find(request.line) if request.kind == "poll" else None
        return self.take(request) if line is None else line.poll(request.number or 0)

    async def take(self, request: LineRequest) -> LineAnswer:
        """Have a line of this process do what a request asks."""
        line = self.find(request.line)
        if line is None:
            return UNKNOWN
        if request.kind == "delete":
            return await line.leave()
        if request.kind == "poll":
            return await line.poll(request.number or 0)
        if request.kind == "give_up":
            return await line.poll(-(request.number or 0))
        messages = _messages_of(request, line.max_message)
        return messages if isinstance(messages, LineAnswer) else await line.post(messages, request.number)


def too_large(limit: int) -> LineAnswer:
    """Return the answer to a POST whose body has more than `limit` bytes."""
    return failed(413, "too_large", f"The body may have {limit} bytes.")


def _parts(token: str) -> tuple[str, str, str]:
    # An instance's name may have dots; what follows it has none.
    instance, _, rest = token.rpartition(".")[0].rpartition(".")
    return instance, rest, token.rpartition(".")[2]


def _messages_of(request: LineRequest, limit: int) -> list[str] | LineAnswer:
    if len(request.body) > limit:
        return too_large(limit)
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        return failed(400, "invalid", "The body is not UTF-8.")
    if not request.several:
        return [text]
    lines = [line for line in text.split("\n", MOST_IN_A_POST) if line.strip()]
    if len(lines) > MOST_IN_A_POST or (lines and "\n" in lines[-1]):
        return failed(413, "too_large", f"A body may have {MOST_IN_A_POST} envelopes.")
    return lines
