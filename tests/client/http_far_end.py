"""The far end of lines over HTTP, played by the test: a real server that says what it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from client.lines import ARRIVES_WITHIN, welcome

STREAMS = ("text/event-stream", "application/x-ndjson")


class FarLine:
    """One line, as the server has it. `statuses` are how the next POSTs are answered; after that with 204."""

    def __init__(self, accept: str, request: web.Request) -> None:
        self.accept = accept
        self.request = request
        self.token = f"line-{id(self)}"
        self.statuses: list[int] = []
        self.swallows = 0
        """How many of the next POSTs are never answered."""
        self.posts: list[tuple[int, str]] = []
        """Sequence and content type of each POST."""
        self.polls: list[str | None] = []
        """What each poll but the first acknowledged."""
        self.polls_refused: list[int] = []
        """How the next polls are answered, but for the first of all."""
        self.deleted = asyncio.Event()
        self.reading = asyncio.Event()
        """Whether POSTs are answered."""
        self.reading.set()
        self._said: list[bytes] = []
        self._more = asyncio.Event()
        self._over = False
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self._acknowledged = 0

    # What the test says

    def say(self, kind: str, **envelope: Any) -> None:
        if "sender" in envelope:
            envelope["from"] = envelope.pop("sender")
        self.message(json.dumps({"type": kind, **envelope}))

    def message(self, text: str) -> None:
        if self.accept == "text/event-stream":
            self.raw(f"data: {text}\n\n".encode())
        elif self.accept == "application/x-ndjson":
            self.raw(text.encode() + b"\n")
        else:
            self.raw(text.encode())

    def raw(self, data: bytes) -> None:
        """Send bytes as they are, or have a poll bring them as a message."""
        self._said.append(data)
        self._more.set()

    def welcome(self, **data: Any) -> None:
        self.say("$welcome", data=welcome(**data))

    def end(self, code: int | None = None, reason: str = "") -> None:
        if code is not None:
            self.say("$close", data={"code": code, "reason": reason})
        self._over = True
        self._more.set()

    # What it hears

    async def heard_raw(self) -> str:
        async with asyncio.timeout(ARRIVES_WITHIN):
            return await self._heard.get()

    async def heard(self, kind: str) -> dict[str, Any]:
        envelope: dict[str, Any] = json.loads(await self.heard_raw())
        assert envelope["type"] == kind, envelope
        return envelope

    async def acknowledge(self, kind: str, data: Any = None) -> dict[str, Any]:
        request = await self.heard(kind)
        self.say("$ack", id=request["id"], **({} if data is None else {"data": data}))
        return request

    # How it is served

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": self.accept})
        await response.prepare(request)
        while True:
            while self._said:
                await response.write(self._said.pop(0))
            if self._over:
                return response
            self._more.clear()
            await self._more.wait()

    async def poll(self, received: str | None) -> web.Response:
        if received is not None and self.polls_refused:
            return web.Response(status=self.polls_refused.pop(0))
        if received is not None:
            self.polls.append(received)
            count = int(received) - self._acknowledged
            del self._said[:count]
            self._acknowledged += count
        while not self._said and not self._over:
            self._more.clear()
            await self._more.wait()
        if not self._said:
            return web.Response(status=404)
        messages = b",".join(self._said)
        number = self._acknowledged + len(self._said)
        return web.Response(
            body=b'{"received":%d,"messages":[%s]}' % (number, messages), content_type="application/json"
        )

    async def post(self, request: web.Request) -> web.Response:
        body = await request.text()
        await self.reading.wait()
        if self.swallows:
            self.swallows -= 1
            await asyncio.Event().wait()
        status = self.statuses.pop(0) if self.statuses else 204
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        sequence = int(request.headers["Hubbub-Sequence"])
        self.posts.append((sequence, request.content_type))
        if status == 204:
            lines = body.split("\n") if request.content_type == "application/x-ndjson" else [body]
            for line in lines:
                self._heard.put_nowait(line)
        return web.Response(status=status)


class FarEnd:
    """A server of lines over HTTP. `refusals` are statuses, or whole answers, for the next who open one."""

    def __init__(self) -> None:
        self.port = 0
        self.refusals: list[int | web.Response] = []
        self.named = True
        """Whether a line begins by naming itself."""
        self.lines: list[FarLine] = []
        self._opened: asyncio.Queue[FarLine] = asyncio.Queue()

    def url(self, kind: str, path: str = "/") -> str:
        return f"{kind}+http://127.0.0.1:{self.port}{path}"

    async def line(self) -> FarLine:
        """Return the next line that a client opens."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            return await self._opened.get()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Hubbub-Line")
        if token is not None:
            return await self._of_line(request, token)
        if self.refusals:
            refusal = self.refusals.pop(0)
            return web.Response(status=refusal) if isinstance(refusal, int) else refusal
        line = FarLine(request.headers["Accept"], request)
        self.lines.append(line)
        if self.named:
            line.say("$line", data={"line": line.token})
        self._opened.put_nowait(line)
        if line.accept in STREAMS:
            return await line.stream(request)
        return await line.poll(None)

    async def _of_line(self, request: web.Request, token: str) -> web.StreamResponse:
        found = [line for line in self.lines if line.token == token]
        if not found:
            return web.Response(status=404)
        line = found[0]
        if request.method == "POST":
            return await line.post(request)
        if request.method == "DELETE":
            line.deleted.set()
            line.end(1000)
            return web.Response(status=204)
        return await line.poll(request.headers["Hubbub-Received"])


@asynccontextmanager
async def far_end(**options: Any) -> AsyncIterator[FarEnd]:
    """Serve lines on a free port while the body runs."""
    end = FarEnd()
    server = web.Server(end.handle)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, **options)
    await site.start()
    end.port = runner.addresses[0][1]
    try:
        yield end
    finally:
        for line in end.lines:
            line.reading.set()
            line.end()
        await runner.cleanup()
