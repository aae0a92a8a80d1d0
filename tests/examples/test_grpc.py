"""The gRPC example: its programs, and nginx before two instances."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from client.lines import soon
from hubbub import Message
from hubbub.client.client import Client
from hubbub.client.grpc_line import dialling
from hubbub.client.line import LineLost
from hubbub.testing.processes import Process
from hubbub.testing.servers import program
from hubbub.testing.servers.redis import RedisServer
from transports.grpc_calls import settled

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpc"


@pytest.fixture(autouse=True)
async def grpc_is_left() -> AsyncIterator[None]:
    yield
    await settled()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def served(port: int, **settings: object) -> Process:
    return Process.serving("chat:hub", directory=EXAMPLE, grpc_port=port, drain=0.5, **settings)


async def started(name: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-u", name, *arguments, cwd=EXAMPLE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )  # fmt: skip


async def wrote(name: str, *arguments: str) -> str:
    program = await started(name, *arguments)
    output, _ = await soon(program.communicate())
    return output.decode()


class Say(Message):
    text: str


class TestThePrograms:
    async def test_what_one_says_the_other_hears_also_after_a_restart(self, tmp_path):
        port = free_port()
        address = f"127.0.0.1:{port}"
        async with served(port, broker=f"sqlite:///{tmp_path}/rooms.db") as server:
            listener = await started("listen.py", "token-of-bob", address)
            try:
                # Where it begins to listen, nobody tells: what is said before is not for it.
                hears = asyncio.ensure_future(listener.stdout.readline())
                while not hears.done():
                    assert await wrote("say.py", "token-of-ada", "hello", address) == "It was said.\n"
                    await asyncio.wait([hears], timeout=0.1)
                assert await hears == b"ada: hello\n"
                await server.restart()
                assert await wrote("say.py", "token-of-ada", "again", address) == "It was said.\n"
                while (heard := await soon(listener.stdout.readline())) == b"ada: hello\n":
                    pass
                assert heard == b"ada: again\n"
            finally:
                listener.kill()
                await listener.wait()

    async def test_a_wrong_token_is_told(self):
        port = free_port()
        async with served(port):
            for name, rest in (("say.py", ["hello"]), ("listen.py", [])):
                told = await wrote(name, "made-up", *rest, f"127.0.0.1:{port}")
                assert told == "This token is not valid.\n"


class NginX(Process):
    """nginx with the example's configuration, but for addresses and folders."""

    def __init__(self, folder: Path, port: int, instances: list[int]) -> None:
        changes = {
            "listen 50051 ": f"listen 127.0.0.1:{port} ",
            "http {": "http { access_log off; "
            + "".join(
                f"{name}_temp_path {folder}/{name};"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
            **{f"127.0.0.1:{50061 + place}": f"127.0.0.1:{own}" for place, own in enumerate(instances)},
        }
        text = (EXAMPLE / "nginx.conf").read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)
        directives = f"daemon off; pid {folder}/pid; error_log stderr warn;"
        command = [program("nginx", "nginx"), "-p", str(folder), "-e", "stderr", "-c", f"{folder}/nginx.conf"]
        super().__init__([*command, "-g", directives], port=port, ready=None, stops_within=5.0)


@contextmanager
def readable_folder() -> Iterator[Path]:
    """Make a folder for nginx, whose workers are another user."""
    with tempfile.TemporaryDirectory(prefix="hubbub-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


class TestBehindNginx:
    async def test_a_restart_of_either_instance_loses_and_repeats_nothing(self):
        ports, count = [free_port() for _ in range(3)], 60
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(readable_folder())
            redis = await stack.enter_async_context(RedisServer(synced="off"))
            instances = [
                await stack.enter_async_context(served(port, broker=redis.url)) for port in ports[:2]
            ]
            await stack.enter_async_context(NginX(folder, ports[2], ports[:2]))
            dial = dialling(f"grpc://127.0.0.1:{ports[2]}")
            clients = [
                await stack.enter_async_context(Client(dial, token=f"token-of-{name}"))
                for name in ("ada", "bob", "ada", "bob")
            ]
            rooms = [await client.join("chat/lobby") for client in clients]
            listening = [asyncio.create_task(texts(room, count)) for room in rooms]
            async with asyncio.timeout(40):  # a client that finds neither instance waits ever longer
                for number in range(count):
                    if number in (15, 40):
                        restarting = asyncio.create_task(instances[number // 40].restart())
                    await rooms[0].send(Say(text=str(number)))
                    if number in (30, 55):
                        await restarting
                for heard in listening:
                    assert await heard == [str(number) for number in range(count)]

    async def test_an_instance_that_is_gone_is_no_reason_to_refuse(self):
        ports = [free_port() for _ in range(3)]
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(readable_folder())
            await stack.enter_async_context(served(ports[0]))
            await stack.enter_async_context(NginX(folder, ports[2], ports[:2]))
            for _ in range(4):
                line = await soon(dialling(f"grpc://127.0.0.1:{ports[2]}")("token-of-ada"))
                assert '"$welcome"' in await soon(line.recv())
                await line.close()
            line = await soon(dialling(f"grpc://127.0.0.1:{ports[2]}")("made-up"))
            assert '"denied"' in await soon(line.recv())
            with pytest.raises(LineLost, match="4401"):
                await soon(line.recv())


async def texts(room, count: int) -> list[str]:
    heard: list[str] = []
    async for received in room:
        heard.append(received.message["text"])
        if len(heard) == count:
            break
    return heard
