"""Programs written for the `websockets` library, run by it and then by hubbub with only the decorator new.

Each is the program of a page of its documentation, in small; the client is the library's own. Both runs have
to have the same outcome.
"""

import asyncio
import contextlib
import json
import queue
from collections.abc import Awaitable, Callable

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as serve_websockets
from websockets.frames import CloseCode

from hubbub import Hubbub

pytestmark = pytest.mark.anyio

ENDS_WITHIN = 20.0

Handler = Callable[..., Awaitable[None]]
Client = Callable[[str], Awaitable[object]]


class Log:
    """What a handler notes, in whichever thread it runs."""

    def __init__(self) -> None:
        self._entries: queue.Queue[object] = queue.Queue()

    def note(self, *entry: object) -> None:
        self._entries.put(entry)

    async def take(self, count: int = 1) -> list[object]:
        return [await asyncio.to_thread(self._entries.get, timeout=ENDS_WITHIN) for _ in range(count)]


def echo() -> tuple[Handler, Client]:
    async def handler(websocket):
        async for message in websocket:
            await websocket.send(message)

    async def client(url):
        async with connect(url) as websocket:
            outcome = []
            for message in ("hello", b"bytes", "", b"", "x" * 100_000, "é🎈"):
                await websocket.send(message)
                answer = await websocket.recv()
                outcome.append((type(answer), answer))
        return outcome, websocket.close_code, websocket.close_reason

    return handler, client


def greeting() -> tuple[Handler, Client]:
    async def handler(websocket):
        name = await websocket.recv()
        await websocket.send(f"Hello {name}!")

    async def client(url):
        async with connect(url) as websocket:
            await websocket.send("Ada")
            outcome = [await websocket.recv()]
            with pytest.raises(websockets.ConnectionClosedOK) as closed:
                await websocket.recv()
        return outcome, str(closed.value)

    return handler, client


def request() -> tuple[Handler, Client]:
    async def handler(websocket):
        headers = websocket.request.headers
        seen = [
            websocket.request.path,
            headers["X-Token"],
            headers["x-token"],
            headers.get("X-Missing"),
            "user-agent" in headers,
            websocket.remote_address[0],
            websocket.subprotocol,
        ]
        await websocket.send(json.dumps([seen, websocket.remote_address[1]]))

    async def client(url):
        outcome = []
        for query in ("", "?a=1&b=%20", "/caf%C3%A9%3Fx%20y?%23"):
            async with connect(url + query, additional_headers={"X-Token": "secret"}) as websocket:
                seen, port = json.loads(await websocket.recv())
                outcome.append((seen, port == websocket.local_address[1]))
        return outcome

    return handler, client


def login() -> tuple[Handler, Client]:
    async def handler(websocket):
        token = await websocket.recv()
        if token != "the right one":
            await websocket.close(CloseCode.INTERNAL_ERROR, "authentication failed")
            return
        await websocket.send("welcome")
        await websocket.wait_closed()

    async def client(url):
        outcome = []
        for token in ("a wrong one", "the right one"):
            async with connect(url) as websocket:
                await websocket.send(token)
                try:
                    outcome.append(await websocket.recv())
                except websockets.ConnectionClosedError as closed:
                    outcome.append((closed.rcvd.code, closed.rcvd.reason, str(closed)))
        return outcome

    return handler, client


def chat() -> tuple[Handler, Client]:
    connected = set()
    log = Log()

    async def handler(websocket):
        connected.add(websocket)
        await websocket.send(f"you are one of {len(connected)}")
        try:
            async for message in websocket:
                for other in connected - {websocket}:
                    # One of them may just be leaving.
                    with contextlib.suppress(websockets.ConnectionClosed):
                        await other.send(message)
        finally:
            connected.remove(websocket)
            log.note(len(connected))

    async def client(url):
        outcome = []
        async with connect(url) as ada, connect(url) as bob:
            outcome += [await ada.recv(), await bob.recv()]
            async with connect(url) as eve:
                outcome.append(await eve.recv())
                for number in range(20):
                    await ada.send(f"ada {number}")
                outcome.append([await bob.recv() for _ in range(20)])
                outcome.append([await eve.recv() for _ in range(20)])
            outcome += await log.take()
            await bob.send("only two of us")
            outcome.append(await ada.recv())
        outcome += await log.take(2)
        return outcome

    return handler, client


def registration() -> tuple[Handler, Client]:
    connections = set()
    log = Log()

    async def handler(websocket):
        connections.add(websocket)
        try:
            await websocket.send("registered")
            await websocket.wait_closed()
        finally:
            connections.remove(websocket)
            log.note(len(connections), websocket.close_code, websocket.close_reason)

    async def client(url):
        outcome = []
        for code, reason in ((1000, ""), (1001, "left"), (4000, "bored")):
            websocket = await connect(url)
            outcome.append(await websocket.recv())
            await websocket.close(code, reason)
            outcome += await log.take()
        return outcome

    return handler, client


def consumer() -> tuple[Handler, Client]:
    log = Log()

    async def handler(websocket):
        while True:
            try:
                message = await websocket.recv()
            except websockets.ConnectionClosedOK as closed:
                log.note("ok", closed.rcvd.code, closed.rcvd.reason, closed.rcvd_then_sent, str(closed))
                break
            except websockets.ConnectionClosedError as closed:
                log.note("error", closed.rcvd.code, closed.rcvd.reason, closed.rcvd_then_sent, str(closed))
                break
            log.note(message)

    async def client(url):
        outcome = []
        for code, reason in ((1000, ""), (1001, "left"), (1011, "broke"), (3000, ""), (4999, "é")):
            websocket = await connect(url)
            await websocket.send("before")
            await websocket.close(code, reason)
            outcome += await log.take(2)
        return outcome

    return handler, client


def producer_and_consumer() -> tuple[Handler, Client]:
    log = Log()

    async def handler(websocket):
        messages = asyncio.Queue()

        async def consume():
            async for message in websocket:
                messages.put_nowait(message)

        async def produce():
            while True:
                await websocket.send(f"made of {await messages.get()}")

        tasks = [asyncio.create_task(consume()), asyncio.create_task(produce())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        log.note(tasks[0] in done, tasks[1] in pending)

    async def client(url):
        async with connect(url) as websocket:
            for number in range(50):
                await websocket.send(str(number))
            outcome = [await websocket.recv() for _ in range(50)]
        return outcome + await log.take()

    return handler, client


def idle_time_out() -> tuple[Handler, Client]:
    async def handler(websocket):
        while True:
            try:
                async with asyncio.timeout(0.01):
                    message = await websocket.recv()
            except TimeoutError:
                await websocket.send("are you there?")
            except websockets.ConnectionClosed:
                break
            else:
                await websocket.send(message)

    async def client(url):
        outcome = []
        async with connect(url) as websocket:
            for number in range(10):
                while await websocket.recv() != "are you there?":
                    pass
                await websocket.send(str(number))
                while (message := await websocket.recv()) == "are you there?":
                    pass
                outcome.append(message)
        return outcome

    return handler, client


def closing_first() -> tuple[Handler, Client]:
    log = Log()

    async def handler(websocket):
        await websocket.close(4000, "enough")
        for use in (websocket.recv(), websocket.send("late")):
            try:
                await use
            except websockets.ConnectionClosed as closed:
                log.note(type(closed).__name__, closed.sent.code, closed.sent.reason, closed.rcvd_then_sent)
        await websocket.close(4001, "again")
        log.note(websocket.close_code, websocket.close_reason)

    async def client(url):
        async with connect(url) as websocket:
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await websocket.recv()
        return closed.value.rcvd.code, closed.value.rcvd.reason, await log.take(3)

    return handler, client


def failing() -> tuple[Handler, Client]:
    async def handler(websocket):
        raise LookupError(await websocket.recv())

    async def client(url):
        outcome = []
        for _ in range(2):
            async with connect(url) as websocket:
                await websocket.send("fail, please")
                with pytest.raises(websockets.ConnectionClosedError) as closed:
                    await websocket.recv()
                outcome.append(closed.value.rcvd.code)
        return outcome

    return handler, client


def vanished() -> tuple[Handler, Client]:
    log = Log()

    async def handler(websocket):
        try:
            await websocket.recv()
        except websockets.ConnectionClosedError as closed:
            log.note(closed.rcvd, closed.sent, closed.rcvd_then_sent, str(closed), websocket.close_code)

    async def client(url):
        websocket = await connect(url)
        websocket.transport.abort()
        return await log.take()

    return handler, client


def vanished_while_sent_to() -> tuple[Handler, Client]:
    log = Log()

    async def handler(websocket):
        try:
            while True:
                await websocket.send("x" * 10_000)
        except websockets.ConnectionClosed as closed:
            log.note(type(closed).__name__, str(closed))

    async def client(url):
        websocket = await connect(url, compression=None)
        await websocket.recv()
        websocket.transport.abort()
        return await log.take()

    return handler, client


PROGRAMS = [
    echo, greeting, request, login, chat, registration, consumer, producer_and_consumer, idle_time_out,
    closing_first, failing,
]  # fmt: skip

# Plain ASGI does not always tell a lost line from a close frame without a code; see test_closing.py.
PROGRAMS_OF_LOST_LINES = [vanished, vanished_while_sent_to]


async def outcome_under_websockets(program: Callable[[], tuple[Handler, Client]]) -> object:
    handler, client = program()
    async with asyncio.timeout(ENDS_WITHIN), serve_websockets(handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        return await client(f"ws://127.0.0.1:{port}/program")


async def outcome_under_hubbub(program: Callable[[], tuple[Handler, Client]], start) -> object:
    handler, client = program()
    hub = Hubbub()
    hub.endpoint("/program")(handler)
    hub.endpoint("/program/{rest}")(handler)
    async with asyncio.timeout(ENDS_WITHIN):
        return await client(start(hub).url + "/program")


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_for_websockets_runs_the_same_under_hubbub(start, program):
    expected = await outcome_under_websockets(program)
    assert expected
    assert await outcome_under_hubbub(program, start) == expected


@pytest.mark.parametrize("program", PROGRAMS_OF_LOST_LINES)
async def test_a_program_for_websockets_is_told_of_a_lost_line_the_same_under_hubbub(serve, program):
    expected = await outcome_under_websockets(program)
    assert expected
    assert await outcome_under_hubbub(program, serve) == expected
