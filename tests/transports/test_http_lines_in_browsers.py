"""HTTP lines as pages use them, in a real browser: `EventSource`, and `fetch` with a streamed answer."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from chromium import chromium_in_loop, needs_chromium
from hubbub import Hubbub, Settings
from hubbub.testing.faults import Cut, FaultProxy, Reset
from hubbub.testing.processes import Process
from hubbub.testing.serving import serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), needs_chromium]

COMES_BACK = 30_000
"""Milliseconds in which a browser is back: it waits for a second or two, and a server has to start."""

APPLICATION = """
from hubbub import Connection, Denied, Hubbub, Message, Room

hub = Hubbub()
chat = hub.room("chat/{name}", history=1000)


class Say(Message):
    text: str


@hub.authenticate
async def who(connection: Connection) -> str | None:
    if connection.token == "wrong":
        raise Denied("This token is not valid.")
    return connection.token or connection.request.cookies.get("user")


@chat.on_message
async def say(room: Room, message: Say) -> None:
    await room.send(message)


@hub.on_message
async def speak(connection: Connection, message: Say) -> None:
    await chat(name="lobby").send(message)
"""

EVENT_SOURCE = """
<!doctype html><title>events</title>
<p id="state"></p><p id="user"></p><ol id="said"></ol><ol id="told"></ol>
<script>
const hub = new URL(location.hash.slice(1));
let line;
const list = (id, text) => {
  const item = document.createElement("li");
  item.textContent = text;
  document.getElementById(id).append(item);
};
const state = (text) => { document.getElementById("state").textContent = text; };
const source = new EventSource(hub, {withCredentials: true});
source.onopen = () => state("open");
source.onerror = () => state(source.readyState === EventSource.CLOSED ? "closed" : "connecting");
source.onmessage = (event) => {
  const {type, room, data} = JSON.parse(event.data);
  if (type === "$line") line = data.line;
  if (type === "$welcome") document.getElementById("user").textContent = data.user ?? "guest";
  if (type === "say") list("said", data.text);
  else if (type !== "$line") list("told", type);
};
window.say = async (text) => {
  const answer = await fetch(new URL(hub.pathname, hub), {
    method: "POST", credentials: "include",
    headers: {"Content-Type": "application/json", "Hubbub-Line": line},
    body: JSON.stringify({type: "say", room: "chat/lobby", data: {text}}),
  });
  return answer.status;
};
</script>
"""

FETCHING = """
<!doctype html><title>lines</title><ol id="said"></ol><p id="state">waiting</p>
<script>
const hub = new URL(location.hash.slice(1));
(async () => {
  const answer = await fetch(hub, {headers: {Accept: "application/x-ndjson", Authorization: "Bearer ada"}});
  const lines = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let line, text = "";
  for (;;) {
    const {value, done} = await lines.read();
    if (done) break;
    text += value;
    const whole = text.split("\\n");
    text = whole.pop();
    for (const envelope of whole.filter(Boolean).map(JSON.parse)) {
      if (envelope.type === "$line") line = envelope.data.line;
      if (envelope.type === "$ack" && envelope.id === "$join 1")
        await fetch(new URL(hub.pathname, hub), {
          method: "POST",
          headers: {"Content-Type": "application/x-ndjson", "Hubbub-Line": line, "Hubbub-Sequence": "1"},
          body: ["one", "two"].map((text) => JSON.stringify({type: "say", room: "chat/lobby", data: {text}}))
            .join("\\n"),
        });
      if (envelope.type === "say") {
        const item = document.createElement("li");
        item.textContent = `${envelope.from}: ${envelope.data.text}`;
        document.getElementById("said").append(item);
        if (envelope.data.text === "two")
          await fetch(new URL(hub.pathname, hub), {method: "DELETE", headers: {"Hubbub-Line": line}});
      }
      if (envelope.type === "$close") document.getElementById("state").textContent = envelope.data.code;
    }
  }
})();
</script>
"""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium_in_loop() as browser:
        yield browser


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "application.py").write_text(APPLICATION)
    return tmp_path


@asynccontextmanager
async def pages() -> AsyncIterator[str]:
    """Serve the pages, at an origin of their own."""

    async def events(request: Request) -> HTMLResponse:
        return HTMLResponse(EVENT_SOURCE)

    async def lines(request: Request) -> HTMLResponse:
        return HTMLResponse(FETCHING)

    app = Starlette(routes=[Route("/events", events), Route("/lines", lines)])
    async with serving(app, settings=Settings()) as served:
        yield served.http


def hub_in(folder: Path, origin: str, **settings: object) -> Process:
    return Process.serving(
        "application:hub",
        directory=folder,
        broker=f"sqlite:///{folder / 'rooms.db'}",
        allowed_origins=origin,
        drain=1.0,
        **settings,
    )


async def open_page(browser: Browser, url: str) -> tuple[Page, list[str]]:
    """Open a page, and return it with the errors that it meets, but for those of a lost line."""
    page = await browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(url)
    return page, errors


async def said(page: Page) -> list[str]:
    return await page.locator("#said li").all_text_contents()


async def test_an_event_source_from_another_origin_talks_and_is_told(browser, folder):
    async with pages() as origin, hub_in(folder, origin) as server:
        url = f"{origin}/events#{server.url('/?room=chat/lobby&token=ada', 'http')}"
        ada, errors = await open_page(browser, url)
        await expect(ada.locator("#user")).to_have_text("ada")
        await expect(ada.locator("#told li")).to_have_text(["$welcome", "$ack"])
        assert await ada.evaluate("say('hello')") == 204
        await expect(ada.locator("#said li")).to_have_text(["hello"])
        assert errors == []


async def test_its_cookies_come_along(browser, folder):
    async with pages() as origin, hub_in(folder, origin) as server:
        page = await browser.new_page()
        await page.context.add_cookies([{"name": "user", "value": "bob", "url": "http://127.0.0.1/"}])
        await page.goto(f"{origin}/events#{server.url('/?room=chat/lobby', 'http')}")
        await expect(page.locator("#user")).to_have_text("bob")


async def test_an_origin_that_may_not_is_kept_out(browser, folder):
    async with pages() as origin, hub_in(folder, "https://page.example") as server:
        page, _ = await open_page(browser, f"{origin}/events#{server.url('/?token=ada', 'http')}")
        await expect(page.locator("#state")).to_have_text("closed")
        assert await page.locator("#told li").count() == 0


async def test_every_message_is_shown_once_across_a_restart_of_the_server(browser, folder):
    async with pages() as origin, hub_in(folder, origin) as server:
        url = server.url("/?room=chat/lobby&token=", "http")
        ada, errors = await open_page(browser, f"{origin}/events#{url}ada")
        await expect(ada.locator("#told li")).to_have_text(["$welcome", "$ack"])
        for number in range(3):
            assert await ada.evaluate(f"say('before {number}')") == 204
        await expect(ada.locator("#said li")).to_have_count(3)

        await server.restart()
        await expect(ada.locator("#state")).to_have_text("open", timeout=COMES_BACK)
        bob, _ = await open_page(browser, f"{origin}/events#{url}bob")
        await expect(bob.locator("#told li")).to_have_text(["$welcome", "$ack"])
        await expect(ada.locator("#told li").last).to_have_text("$welcome", timeout=COMES_BACK)
        await server.kill()
        await server.start()
        # One of them is back before the other, and says what that one has missed.
        await expect(bob.locator("#told li")).to_have_count(4, timeout=COMES_BACK)
        for number in range(3):
            assert await bob.evaluate(f"say('after {number}')") == 204
        expected = [f"before {number}" for number in range(3)] + [f"after {number}" for number in range(3)]
        await expect(ada.locator("#said li")).to_have_text(expected, timeout=COMES_BACK)
        assert await ada.evaluate("say('end')") == 204
        await expect(ada.locator("#said li")).to_have_text([*expected, "end"])
        await expect(bob.locator("#said li")).to_have_text([*expected[3:], "end"])
        assert errors == []


async def test_every_message_is_shown_once_on_a_line_that_is_cut_again_and_again(browser, folder):
    async with (
        pages() as origin,
        hub_in(folder, origin) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
    ):
        path = "/?room=chat/lobby&token="
        ada, errors = await open_page(browser, f"{origin}/events#http://127.0.0.1:{proxy.port}{path}ada")
        await expect(ada.locator("#told li")).to_have_text(["$welcome", "$ack"])
        bob, _ = await open_page(browser, f"{origin}/events#{server.url(path + 'bob', 'http')}")
        await expect(bob.locator("#told li")).to_have_text(["$welcome", "$ack"])
        expected = []
        for number in range(40):
            if number % 10 == 5:
                proxy.apply(Cut() if number % 20 == 5 else Reset())
            expected.append(f"message {number}")
            assert await bob.evaluate(f"say('message {number}')") == 204
        await expect(ada.locator("#said li")).to_have_text(expected, timeout=COMES_BACK)
        proxy.apply(Cut())
        expected.append("last")
        assert await bob.evaluate("say('last')") == 204
        await expect(ada.locator("#said li")).to_have_text(expected, timeout=COMES_BACK)
        await expect(ada.locator("#told li").last).to_have_text("$welcome")
        assert errors == []


async def test_an_event_source_whose_login_is_refused_does_not_come_back(browser, folder):
    async with pages() as origin, hub_in(folder, origin) as server:
        page, _ = await open_page(browser, f"{origin}/events#{server.url('/?token=wrong', 'http')}")
        await expect(page.locator("#told li")).to_have_text(["$error", "$close"])
        await expect(page.locator("#state")).to_have_text("closed", timeout=COMES_BACK)
        await expect(page.locator("#told li")).to_have_text(["$error", "$close"])


async def test_an_event_source_that_meets_a_server_about_to_stop_comes_back_again(browser):
    async with pages() as origin:
        hub = Hubbub(Settings(allowed_origins=origin))
        hub.room("chat/{name}")
        async with serving(hub, settings=hub.settings) as served:
            page, errors = await open_page(browser, f"{origin}/events#{served.http}/?room=chat/lobby")
            told = page.locator("#told li")
            await expect(told).to_have_text(["$welcome", "$ack"])
            hub._entrance.leaving = True
            for connection in hub._hub.connections.values():
                connection.transport.abort()
            await expect(told).to_have_text(["$welcome", "$ack", "$close"], timeout=COMES_BACK)
            hub._entrance.leaving = False
            await expect(told.nth(3)).to_have_text("$welcome", timeout=COMES_BACK)
            assert errors == []
            await page.close()


async def test_a_page_reads_a_stream_with_fetch(browser, folder):
    async with pages() as origin, hub_in(folder, origin) as server:
        url = f"{origin}/lines#{server.url('/?room=chat/lobby', 'http')}"
        page, errors = await open_page(browser, url)
        await expect(page.locator("#said li")).to_have_text(["ada: one", "ada: two"])
        await expect(page.locator("#state")).to_have_text(re.compile("1000"))
        assert errors == []
