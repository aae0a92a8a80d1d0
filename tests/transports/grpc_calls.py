"""gRPC clients as others make them: by the stubs of the example, which protoc has generated."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from hubbub.testing.clock import within

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpc"
if str(EXAMPLE) not in sys.path:
    sys.path.append(str(EXAMPLE))

import hubbub_pb2 as pb  # noqa: E402
import hubbub_pb2_grpc as services  # noqa: E402

__all__ = [
    "Caller", "channel_to", "connected", "ended", "envelope", "eventually", "message", "pb", "services",
    "settled", "subscribed",
]  # fmt: skip


def message(**envelope: Any) -> pb.Message:
    """Return an envelope, as a WebSocket has it, as a message."""
    identity = envelope.pop("id", None)
    data = envelope.pop("data", None)
    made = pb.Message(data=b"" if data is None else json.dumps(data).encode(), **envelope)
    if isinstance(identity, str):
        made.text = identity
    elif identity is not None:
        made.number = identity
    return made


def envelope(made: pb.Message) -> dict[str, Any]:
    """Return a message as a WebSocket's envelope."""
    found: dict[str, Any] = {"type": made.type}
    kind = made.WhichOneof("id")
    if kind is not None:
        found["id"] = getattr(made, kind)
    for name, field in {"room": "room", "offset": "offset", "from": "sender"}.items():
        if getattr(made, field):
            found[name] = getattr(made, field)
    if made.data:
        found["data"] = json.loads(made.data)
    return found


class Caller:
    """A call that is sent messages."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._arrived: deque[dict[str, Any]] = deque()

    async def send(self, **fields: Any) -> None:
        await self.call.write(message(**fields))

    async def receive(self) -> dict[str, Any]:
        async with within(5):
            while not self._arrived:
                read = await self.call.read()
                assert read is not grpc.aio.EOF, "the call has ended"
                self._arrived.extend(envelope(one) for one in read.messages)
        return self._arrived.popleft()

    async def ask(self, **fields: Any) -> dict[str, Any]:
        """Send a request, and return the answer; what comes before it is for somebody else."""
        await self.send(**fields)
        while (answer := await self.receive()).get("id") != fields["id"]:
            pass
        return answer

    async def join(self, room: str, **data: Any) -> dict[str, Any]:
        answer = await self.ask(type="$join", id=f"join {room}", room=room, data=data)
        assert answer["type"] == "$ack", answer
        return answer["data"]

    async def ended(self) -> tuple[grpc.StatusCode, str, dict[str, str]]:
        return await ended(self.call)


async def eventually(condition: Callable[[], object]) -> None:
    """Look again and again until it is so."""
    async with within(10):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


async def settled() -> None:
    """Wait until nothing is under way in gRPC, whose core serves the event loops of all tests at once.

    What comes for a loop that is closed by then is an error in the one that takes it.
    """
    own, left = asyncio.current_task(), ["?"]
    try:
        async with within(10):
            while left:
                left = [repr(task) for task in asyncio.all_tasks() if task is not own and _is_grpc_s(task)]
                # What was cancelled has no task any more. It comes before what is asked for after it.
                async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
                    with suppress(grpc.aio.AioRpcError):
                        await channel.unary_unary("/nothing")(b"")
    except TimeoutError:
        raise AssertionError(f"gRPC is not done: {left}") from None


def _is_grpc_s(task: asyncio.Task[Any]) -> bool:
    return any(name in repr(task) for name in ("cygrpc", "GRPCLine", "gRPC"))


async def ended(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Return status, details and hubbub's metadata of a call, once it has ended."""
    async with within(5):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        told = {name: value for name, value in await call.trailing_metadata() if name.startswith("hubbub-")}
        return await call.code(), await call.details(), told


@asynccontextmanager
async def channel_to(url: str, credentials: Any = None) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel that shares its connection with no other."""
    target, options = url.partition("://")[2], [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options)
    async with channel:
        yield channel


@asynccontextmanager
async def connected(
    url: str, *, token: str | None = None, metadata: Any = (), welcome: bool = True, **options: Any
) -> AsyncIterator[Caller]:
    """Call `Connect`, and receive the welcome."""
    if token is not None:
        metadata = (*metadata, ("authorization", f"Bearer {token}"))
    async with channel_to(url) as channel:
        caller = Caller(services.HubbubStub(channel).Connect(metadata=metadata, **options))
        if welcome:
            first = await caller.receive()
            assert first["type"] == "$welcome", first
            caller.welcome = first["data"]
        yield caller
        caller.call.cancel()


@asynccontextmanager
async def subscribed(
    url: str, *rooms: Any, session: str = "", attempt: int = 0, **options: Any
) -> AsyncIterator[Caller]:
    """Call `Subscribe` with names of rooms, or pairs of name and position; receive the welcome."""
    wanted = pb.Subscription(session=session, attempt=attempt)
    for room in rooms:
        name, since = (room, None) if isinstance(room, str) else room
        wanted.rooms.add(name=name, since=None if since is None else pb.Position(**since))
    async with channel_to(url) as channel:
        caller = Caller(services.HubbubStub(channel).Subscribe(wanted, **options))
        first = await caller.receive()
        assert first["type"] == "$welcome", first
        caller.welcome = first["data"]
        yield caller
        caller.call.cancel()
