"""Lines over HTTP as somebody without a library has them: each request goes to the instance that is named."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

ARRIVES_WITHIN = 30.0

MEDIA = {"sse": "text/event-stream", "stream": "application/x-ndjson", "poll": "application/json"}


class ByHand:
    """A line, opened at `owner`; everything else goes to `others`, one after the other."""

    def __init__(self, session: aiohttp.ClientSession, kind: str, owner: str, others: Iterable[str]) -> None:
        self.session = session
        self.kind = kind
        self.owner = owner
        self.elsewhere = itertools.cycle(others)
        self.token = ""
        self.received = 0
        self.sequence = 0
        self.last_event_id: str | None = None
        self.waiting: list[dict[str, Any]] = []
        self._answer: aiohttp.ClientResponse | None = None

    async def open(self) -> dict[str, Any]:
        """Open it; return the data of the ``$welcome``."""
        answer = await self.session.get(self.owner, headers={"Accept": MEDIA[self.kind]})
        assert answer.status == 200, await answer.text()
        if self.kind == "poll":
            self._take(await answer.json())
        else:
            self._answer = answer
        line = await self.receive()
        assert line["type"] == "$line"
        self.token = line["data"]["line"]
        return (await self.receive_type("$welcome"))["data"]

    async def close(self) -> None:
        """Hang up; where nothing but a request can tell so, at the owner, if it is there."""
        if self._answer is not None:
            self._answer.close()
        elif self.token:
            with suppress(aiohttp.ClientError):
                async with self.session.delete(self.owner, headers={"Hubbub-Line": self.token}):
                    pass

    async def post(self, *envelopes: dict[str, Any], sequence: int | None = None, at: str = "") -> int:
        """Say something, at the next instance in turn; return the status."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        headers = {
            "Hubbub-Line": self.token,
            "Hubbub-Sequence": str(sequence),
            "Content-Type": "application/x-ndjson",
        }
        body = "\n".join(map(json.dumps, envelopes))
        async with self.session.post(at or next(self.elsewhere), data=body, headers=headers) as answer:
            self.told = await answer.text()
            return answer.status

    async def poll(self, received: int | None = None, at: str = "") -> tuple[int, str]:
        """Poll once, at the next instance in turn."""
        number = self.received if received is None else received
        headers = {"Hubbub-Line": self.token, "Hubbub-Received": str(number)}
        async with self.session.get(at or next(self.elsewhere), headers=headers) as answer:
            return answer.status, await answer.text()

    async def delete(self) -> int:
        headers = {"Hubbub-Line": self.token}
        async with self.session.delete(next(self.elsewhere), headers=headers) as answer:
            return answer.status

    async def receive(self) -> dict[str, Any]:
        """Return the next envelope."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            while not self.waiting:
                if self.kind == "poll":
                    status, text = await self.poll()
                    assert status == 200, (status, text)
                    self._take(json.loads(text))
                elif self.kind == "stream":
                    self._take_line(await self._line())
                else:
                    await self._event()
            return self.waiting.pop(0)

    async def receive_type(self, *kinds: str) -> dict[str, Any]:
        """Return the next envelope of one of these types; those before it are dropped."""
        while True:
            envelope = await self.receive()
            if envelope["type"] in kinds:
                return envelope

    async def ask(self, **envelope: Any) -> dict[str, Any]:
        """Say something, and return the answer to it; what comes before is dropped."""
        assert await self.post({"id": "asked", **envelope}) == 204, self.told
        while True:
            answer = await self.receive()
            if answer.get("id") == envelope.get("id", "asked"):
                return answer

    def _take(self, answer: dict[str, Any]) -> None:
        self.received = answer["received"]
        self.waiting += answer["messages"]

    async def _line(self) -> bytes:
        assert self._answer is not None
        line = await self._answer.content.readuntil(b"\n")
        if not line:
            raise EOFError
        return line.rstrip(b"\n")

    def _take_line(self, line: bytes) -> None:
        if line:
            self.waiting.append(json.loads(line))

    async def _event(self) -> None:
        while line := await self._line():
            name, _, value = line.partition(b": ")
            if name == b"data":
                self._take_line(value)
            elif name == b"id":
                self.last_event_id = value.decode()


@asynccontextmanager
async def by_hand(kind: str, owner: str, *others: str) -> AsyncIterator[ByHand]:
    """Open a line of a kind."""
    timeout = aiohttp.ClientTimeout(total=ARRIVES_WITHIN)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=4 * 2**20) as session:
        line = ByHand(session, kind, owner, others or (owner,))
        try:
            line.welcome = await line.open()  # type: ignore[attr-defined]
            yield line
        finally:
            await line.close()
