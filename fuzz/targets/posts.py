"""What requests say to HTTP lines: the ``Accept`` header that opens one, and POSTs to one that is there.

The first byte of an input says which. A header is the rest. POSTs are separated by a byte 255: each begins
with a digit, its ``Hubbub-Sequence`` (0: none), or with a letter: see :func:`_told`.
"""

import asyncio
import atexit
import re
from collections import deque
from collections.abc import Awaitable

from hubbub.engine.lines import MOST_IN_A_POST, TAKEN, UNKNOWN, LineAnswer, LineRequest, Lines
from hubbub.transports.http_lines.negotiation import preferred
from hubbub.transports.http_lines.posts import BEHIND, HOLE, MOST_WAITING, Posts

from ..line import TURNS

ACCEPT, SEVERAL, WILDCARDS = 1, 2, 4
"""Bits of the first byte: it is a header, bodies have several lines, wildcards count."""

OFFERED = ("text/event-stream", "application/x-ndjson", "application/json")

LIMIT = 2010
"""Bytes of a body: more than there are lines to be had in it."""

MOST_ITEMS = 2 * MOST_WAITING
"""POSTs and others of an input: what is decided is decided in fewer."""

PAUSES = "!"
"""A message after which the session takes nothing for now."""

_loop = asyncio.new_event_loop()
atexit.register(_loop.close)


def check(data: bytes) -> list[str]:
    if not data:
        return []
    if data[0] & ACCEPT:
        return [_check_accept(data[1:].decode("latin-1"), bool(data[0] & WILDCARDS))]
    items = data[1:].split(b"\xff")[:MOST_ITEMS]
    return _loop.run_until_complete(_check_posts(items, bool(data[0] & SEVERAL)))


# Accept


def _check_accept(header: str, wildcards: bool) -> str:
    found = preferred(header, OFFERED, wildcards=wildcards)
    assert found is None or found in OFFERED
    choices: list[tuple[float, int, int]] = []
    for place, part in enumerate(header.lower().split(",")):
        media, *parameters = [piece.strip() for piece in part.split(";")]
        weights = [value.strip() for name, _, value in (one.partition("=") for one in parameters)
                   if name.strip() == "q"]  # fmt: skip
        if not all(re.fullmatch(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", weight, re.ASCII) for weight in weights):
            return "not as RFC 9110 has it"  # it may be read as it may
        weight = float(weights[-1]) if weights else 1.0
        for number, offered in enumerate(OFFERED):
            ranges = {offered, "*/*", f"{offered.split('/')[0]}/*"} if wildcards else {offered}
            if media in ranges and weight:
                choices.append((-weight, place, number))
    expected = OFFERED[min(choices)[2]] if choices else None
    assert found == expected, f"{found} is preferred, where it is {expected}"
    return f"{found} {min(len(choices), 3)}"


# POSTs


class _Line:
    """A line that takes POSTs, and what is expected of it: a session that is told one after the other."""

    max_message = LIMIT

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.posts = Posts(self._deliver)
        self.expected: list[str] = []
        self.answers: list[LineAnswer | None] = []
        self.paused = True
        self.ended = False
        self._waiting: deque[tuple[int, list[str], int | None]] = deque()
        self._taken = self._at = 0

    def _deliver(self, message: str) -> None:
        self.delivered.append(message)
        if message == PAUSES:
            self.posts.pause()

    async def post(self, messages: list[str], sequence: int | None) -> LineAnswer:
        return await self.posts.take(messages, sequence)

    def poll(self, received: int) -> Awaitable[LineAnswer]:
        raise AssertionError(received)

    async def leave(self) -> LineAnswer:
        raise AssertionError

    # What is expected

    def expect(self, messages: list[str], sequence: int | None) -> None:
        self.answers.append(None)
        if len(self._waiting) >= MOST_WAITING:
            self.answers[-1] = BEHIND
            return
        self._waiting.append((len(self.answers) - 1, messages, sequence))
        self.go_on()

    def go_on(self) -> None:
        """Take what waits, as far as the session does."""
        while self._waiting:
            number, messages, sequence = self._waiting[0]
            if self.ended:
                answer = UNKNOWN
            elif sequence is not None and sequence <= self._taken:
                answer = TAKEN
            elif sequence is not None and sequence > self._taken + 1:
                answer = HOLE
            else:
                while self._at < len(messages) and not self.paused:
                    self.expected.append(messages[self._at])
                    self._at += 1
                    self.paused = self.expected[-1] == PAUSES
                if self._at < len(messages):
                    return
                answer, self._taken = TAKEN, self._taken if sequence is None else sequence
            self._at = 0
            self.answers[number] = answer
            self._waiting.popleft()


async def _check_posts(items: list[bytes], several: bool) -> list[str]:
    line, lines = _Line(), Lines(lambda: "here")
    token = lines.open(line)
    asked: list[asyncio.Task[LineAnswer]] = []
    signs: list[str] = []
    for item in items:
        kind, body = item[:1], item[1:]
        if kind.isdigit():
            sequence = int(kind) or None
            request = LineRequest("post", token, sequence, several, body)
            messages = _messages(body, several)
            if messages is None:
                answer = await lines.take(request)
                assert answer.status in (400, 413), f"answered {answer.status}, where it is to be refused"
                signs.append(f"refused {answer.status}")
                continue
            asked.append(asyncio.create_task(lines.take(request)))
            line.expect(messages, sequence)
        else:
            await _told(kind, body, line, lines)
        await _settle(line, asked)
        assert line.delivered == line.expected
        assert [task.result() if task.done() else None for task in asked] == line.answers
    line.ended = True
    line.posts.end()
    line.go_on()
    assert await asyncio.gather(*asked) == line.answers
    assert line.delivered == line.expected, "a message was taken after the end"
    statuses = {answer.status for answer in line.answers if answer is not None}
    return [*signs, *(f"answered {status}" for status in statuses), f"{min(len(line.delivered), 9)} taken"]


async def _told(kind: bytes, body: bytes, line: _Line, lines: Lines) -> None:
    """Do what a letter stands for: Pause, Resume, End, or a POST with another Token."""
    if kind == b"P":
        line.posts.pause()
        line.paused = True
    elif kind == b"R":
        line.posts.resume()
        line.paused = False
        line.go_on()
    elif kind == b"E":
        line.posts.end()
        line.ended = True
        line.go_on()
    elif kind == b"T":
        assert await lines.ask(LineRequest("post", body.decode("latin-1"), None, False, b"{}")) is UNKNOWN


def _messages(body: bytes, several: bool) -> list[str] | None:
    """Return the messages of a body; None if it is to be refused."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    if len(body) > LIMIT:
        return None
    if not several:
        return [text]
    parts = text.split("\n")
    messages = [one for one in parts if one.strip()]
    # Empty lines are none, but behind so many lines they are not read on to the next one.
    rest = parts[MOST_IN_A_POST:]
    too_many = len(messages) > MOST_IN_A_POST or (len(rest) > 1 and any(one.strip() for one in rest))
    return None if too_many else messages


async def _settle(line: _Line, asked: list[asyncio.Task[LineAnswer]]) -> None:
    """Wait until what is expected has come, for as long as something may go on by itself."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
        answered = [task.done() for task in asked] == [answer is not None for answer in line.answers]
        if answered and len(line.delivered) >= len(line.expected):
            return
