"""The pages, commands and the proxy's configuration of the how-to for lines over HTTP do what it says."""

import asyncio
import json
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio.to_thread
import pytest
from playwright.async_api import Browser, Page, expect

from chromium import chromium_in_loop, needs_chromium
from conftest import Served
from deploy.proxies import nginx, quiet
from docs.pages import Shelf, blocks, files, read
from hubbub.testing.processes import Process
from hubbub.testing.serving import serving
from transports.streams import EVENTS, JSON_LINES, At, Stream

PAGE = "docs/how-to/server-sent-events.md"

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
def app(shelf: Shelf):
    shelf.put_all(PAGE)
    return shelf.module("app")


@pytest.fixture
def served(app, serve) -> Served:
    return serve(app.app)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium_in_loop() as browser:
        yield browser


async def window(browser: Browser, url: str) -> Page:
    page = await browser.new_page()
    await page.goto(url)
    return page


@needs_chromium
async def test_two_pages_talk_and_show_everything_once_across_a_restart(browser, shelf, tmp_path):
    shelf.put_all(PAGE)
    broker = f"sqlite:///{tmp_path / 'rooms.db'}"
    async with Process.serving(
        "app:app", directory=shelf.directory, ready="/live/readyz", broker=broker, drain=1.0
    ) as server:
        ada, bob = [await window(browser, server.url("/", "http")) for _ in range(2)]
        await ada.get_by_label("Your message").fill("hello")
        await ada.keyboard.press("Enter")
        await expect(ada.locator("#said li")).to_have_text([re.compile("guest:.*: hello")])
        await bob.get_by_label("Your message").fill("hi")
        await bob.keyboard.press("Enter")
        await expect(ada.locator("#said li")).to_have_text([re.compile("hello"), re.compile("hi")])
        await server.kill()
        await bob.get_by_label("Your message").fill("still here")
        await bob.keyboard.press("Enter")
        await server.start()
        said = [re.compile(text) for text in ("hello", "hi", "still here")]
        await expect(ada.locator("#said li")).to_have_text(said, timeout=30_000)


@needs_chromium
async def test_the_page_that_reads_a_stream_shows_what_is_said(browser, app, shelf):
    html = (shelf.directory / "stream.html").read_text()
    async with serving(app.app) as served:
        page = await browser.new_page()
        await page.route("**/stream.html", lambda route: route.fulfill(body=html, content_type="text/html"))
        await page.goto(f"{served.http}/stream.html")
        async with asyncio.timeout(10):
            # Until it is in the room, it is told nothing.
            while not await page.locator("#said li").count():
                await app.chat(name="lobby").send(app.Say("hello"))
                await asyncio.sleep(0.05)
        await expect(page.locator("#said li").first).to_have_text(re.compile("hello"))


def test_a_hundred_rooms_fit_into_a_bookmark(served):
    rooms = "&".join(f"room=chat/{number:04}" for number in range(100))
    with Stream(served, f"/live/?{rooms}") as stream:
        for _ in range(100):
            stream.until("$ack")
        last = stream.last_event_id
        assert len(last) <= 4096
    with Stream(served, "/live/", {"Last-Event-ID": last}) as again:
        again.until("$welcome")
        assert len(again.until("$welcome")["data"]["rooms"]) == 100


def curl(text: str, http: str, line: str = "") -> list[str]:
    command = shlex.split(text.replace("\\\n", " "))
    return [word.replace("http://localhost:8000", http).replace("$LINE", line) for word in command]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_with_curl_do_it(served):
    listen, say = re.findall(r"^    (curl (?:.*\\\n)?.*)$", read(PAGE), re.MULTILINE)
    with subprocess.Popen(curl(listen, served.http), stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        try:
            events = _events(listening.stdout)
            line = next(events)["data"]["line"]
            while next(events)["type"] != "$ack":
                pass
            saying = [*curl(say, served.http, line), "-s", "-o", "/dev/null", "-w", "%{http_code}"]
            said = subprocess.run(saying, capture_output=True, text=True, timeout=10)
            assert said.stdout == "204"
            assert next(events)["data"] == {"text": "hi"}
        finally:
            listening.kill()


def _events(lines) -> Iterator[dict]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_the_options_of_the_page_are_those_of_the_command():
    assert any("--allowed-origins" in block.text for block in blocks(PAGE) if block.language == "sh")


async def test_nginx_with_the_page_s_configuration_passes_everything_on_at_once(app, serve, tmp_path):
    served = serve(app.app)
    location = next(file.text for file in files(PAGE) if file.name == "location.conf")
    async with nginx_with(location, tmp_path, served.port) as proxy:
        await _speaks_through(proxy.port)


async def test_so_does_one_that_buffers_and_speaks_http_1_0(app, serve, tmp_path):
    served = serve(app.app)
    location = "location / { proxy_pass http://hubbub; proxy_http_version 1.0; proxy_buffering on; }"
    async with nginx_with(location, tmp_path, served.port) as proxy:
        await _speaks_through(proxy.port)


async def _speaks_through(port: int) -> None:
    def speak() -> None:
        there = At(port)
        for accept in (EVENTS, JSON_LINES):
            with Stream(there, "/live/?room=chat/lobby", accept=accept) as stream:
                stream.until("$ack")
                for number in range(3):
                    say = {"type": "say", "room": "chat/lobby", "data": {"text": str(number)}}
                    assert stream.post(say).status == 204
                    assert stream.until("say")["data"] == {"text": str(number)}
                assert (stream.delete().status, stream.closed()) == (204, (1000, ""))

    await anyio.to_thread.run_sync(speak)


def nginx_with(location: str, folder: Path, upstream: int) -> Process:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = folder / "nginx.conf"
    path.write_text(f"""
        events {{}}
        http {{
            {quiet(folder)}
            upstream hubbub {{ server 127.0.0.1:{upstream}; }}
            server {{ listen 127.0.0.1:{port}; {location} }}
        }}
    """)
    return Process(nginx(path), port=port, ready=None)
