"""The page about gRPC does what it says."""

import asyncio
import re
from pathlib import Path

import grpc
import pytest

from docs.pages import ROOT, Shelf, files, read
from hubbub import Message
from hubbub.client import LineLost
from hubbub.client.client import Client
from hubbub.client.grpc_line import dialling
from hubbub.protocol.codes import CloseCode
from hubbub.testing.serving import serving
from hubbub.transports.grpc import statuses
from transports.grpc_calls import settled

pytestmark = pytest.mark.anyio

PAGE = "docs/how-to/grpc.md"


class Say(Message):
    text: str


def test_the_table_of_statuses_is_the_server_s():
    told: dict[int, str] = {}
    for status, codes in re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", read(PAGE), re.MULTILINE):
        told |= {int(code): status for code in re.findall(r"\b\d{4}\b", codes)}
    sent = set(CloseCode) - {CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.UNSUPPORTED_DATA}
    assert set(told) == {int(code) for code in sent}
    assert told == {int(code): statuses.closed(code, "").code.name for code in sent}
    assert statuses.closed(4000, "").code is grpc.StatusCode.UNKNOWN


def test_the_javascript_on_the_page_is_what_the_tests_run():
    [shown] = [file.text for file in files(PAGE) if file.name == "chat.js"]
    assert shown == (ROOT / "tests" / "peers" / "grpc.js").read_text()


async def test_the_application_beside_a_server_of_its_own(shelf: Shelf, monkeypatch):
    shelf.put_all(PAGE)
    beside = shelf.module("beside")
    ports: list[int] = []
    make = grpc.aio.server

    def server() -> grpc.aio.Server:
        made = make()
        listen = made.add_insecure_port
        made.add_insecure_port = lambda _: ports.append(listen("127.0.0.1:0"))
        return made

    monkeypatch.setattr(grpc.aio, "server", server)
    running = asyncio.create_task(beside.main())
    async with asyncio.timeout(10):
        while not (running.done() or (ports and beside.hub._entrance.started)):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    async with Client(dialling(f"grpc://127.0.0.1:{ports[0]}"), token="token-of-ada") as client:
        room = await client.join("chat/lobby")
        await room.send(Say(text="hi"))
        async with asyncio.timeout(5):
            assert (await anext(aiter(room))).message == {"text": "hi"}
    running.cancel()
    await asyncio.wait([running])
    await settled()


async def test_the_login_of_the_page(shelf: Shelf):
    shelf.put_all(PAGE)
    hub = shelf.module("chat").hub
    hub.settings = type(hub.settings)(grpc_port=0)
    async with serving(hub) as served:
        line = await dialling(served.grpc)(None)
        await line.recv()
        with pytest.raises(LineLost, match="4401 This token is not valid"):
            await line.recv()
        await line.close()
    await settled()


def test_the_files_that_it_links_to_are_there():
    for name in ("chat.py", "say.py", "listen.py", "nginx.conf", "hubbub_pb2.py", "hubbub_pb2_grpc.py"):
        assert (ROOT / "examples" / "grpc" / name).is_file()
    assert Path(ROOT / "src/hubbub/protocol/protobuf/hubbub.proto").is_file()
