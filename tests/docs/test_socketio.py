"""The page on Socket.IO and its example: its clients talk to its applications, and its tables are true."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from chromium import chromium, needs_chromium
from docs.pages import ROOT, files, read
from hubbub import Hubbub
from hubbub.protocol.codes import CloseCode
from hubbub.server import find_hub
from hubbub.testing import Process
from hubbub.testing.serving import serving

PAGE = "docs/how-to/socketio.md"
EXAMPLE = ROOT / "examples" / "socketio"
PEERS = ROOT / "tests" / "peers" / "node_modules"
ENDS_WITHIN = 30.0


async def test_the_client_of_the_page_talks_to_its_application(shelf, tmp_path):
    shelf.put_all(PAGE)
    assert await output(tmp_path / "client.js", shelf.module("app").hub, 2) == ["{ said: 'hi' }\n", "hello\n"]


async def output(program: Path, hub: Hubbub, lines: int) -> list[str]:
    """Return the first lines that a program of the page writes, as it talks to a hub."""
    node = shutil.which("node")
    assert node, "This test talks to node's socket.io-client. Install node (Debian: nodejs)."
    async with serving(hub) as at:
        process = await asyncio.create_subprocess_exec(
            node,
            str(program),
            at.http,
            env={**os.environ, "NODE_PATH": str(PEERS)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(ENDS_WITHIN):
                return [(await process.stdout.readline()).decode() for _ in range(lines)]
        finally:
            process.terminate()
            await process.communicate()


async def test_the_client_that_has_itself_put_into_a_room_hears_what_is_said_there(shelf, tmp_path):
    shelf.put_all(PAGE)
    assert await output(tmp_path / "joins.js", shelf.module("joins").hub, 2) == [
        "chat/lobby\n",
        "lobby: hello\n",
    ]


@pytest.mark.parametrize("name", ["hosted", "namespaces", "joins"])
def test_the_other_applications_of_the_page_have_hubs(shelf, name):
    shelf.put_all(PAGE)
    module = shelf.module(name)
    assert find_hub(getattr(module, "app", module.hub)) is module.hub


def test_the_table_of_close_codes_says_what_the_codes_do():
    rows = re.findall(r"^\| (?:after which clients come back|the others): (.*?) \|", read(PAGE), re.MULTILINE)
    for row, comes_back in zip(rows, (True, False), strict=True):
        for text in row.split(", "):
            codes = [code for code in CloseCode if re.fullmatch(text.replace("x", r"\d"), str(int(code)))]
            assert codes, text
            assert all(code.comes_back is comes_back for code in codes), text


def test_the_page_shows_whole_files():
    names = {"app.py", "client.js", "joins.py", "joins.js", "namespaces.py", "hosted.py"}
    assert {file.name for file in files(PAGE)} == names


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def example() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    process = Process.serving("app:app", directory=EXAMPLE, drain=0.5)
    try:
        loop.run_until_complete(process.start())
        yield process.url("/", "http")
    finally:
        loop.run_until_complete(process.close())
        loop.close()


@needs_chromium
def test_two_people_talk_on_the_examples_page(example: str, browser: Browser):
    def opened(name: str) -> Page:
        page = browser.new_page()
        page.set_default_timeout(15_000)
        page.route("https://cdn.socket.io/**", served)
        page.goto(f"{example}?name={name}")
        expect(page.locator("#state")).to_have_text("Online.")
        return page

    def served(route: Route) -> None:
        route.fulfill(path=Path(PEERS, "socket.io-client", "dist", "socket.io.min.js"))

    ada, bob = opened("ada"), opened("bob")
    expect(ada.locator("#people li")).to_have_text(["ada", "bob"])
    bob.get_by_label("Your message").fill("hello")
    bob.get_by_label("Your message").press("Enter")
    for page in (ada, bob):
        expect(page.locator("#messages li")).to_have_text(["bob: hello"])
    bob.close()
    expect(ada.locator("#people li")).to_have_text(["ada"])
