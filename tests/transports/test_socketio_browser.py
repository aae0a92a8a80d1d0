"""Socket.IO in a browser: the client's own file in a page, in Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from chromium import chromium, needs_chromium
from socketio_chat import chat_hub

CLIENT = Path(__file__).parents[1] / "peers" / "node_modules" / "socket.io-client" / "dist"
PAGE = "<!doctype html><title>chat</title><script src='/client/socket.io.js'></script>"

pytestmark = needs_chromium

SPEAKS = """async ([url, options, token]) => {
  const socket = io(url, { ...options, auth: { token }, reconnectionDelay: 50 });
  window.socket = socket;
  window.heard = [];
  socket.onAny((...event) => window.heard.push(event));
  await new Promise((connected, failed) => {
    socket.on("connect", connected);
    socket.on("connect_error", failed);
  });
  await socket.emitWithAck("$join", { room: "chat/lobby" });
  return socket.id;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(15_000)
        yield page


@pytest.fixture
def at(start) -> str:
    """Where an application serves the page, and below a path of its own the hub."""
    hub = chat_hub()
    hub.socketio()
    app = Starlette(
        routes=[
            Route("/", lambda request: HTMLResponse(PAGE)),
            Mount("/client", StaticFiles(directory=CLIENT)),
            Mount("/live", hub),
        ],
        lifespan=hub.lifespan,
    )
    return start(app).http


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]], ids="-".join)
def test_a_page_talks_over_each_transport(page, at, transports):
    page.goto(at)
    options = {"path": "/live/socket.io/", "transports": transports}
    page.evaluate(SPEAKS, [at, options, "ada"])
    reply = page.evaluate('() => socket.emitWithAck("say", { text: "hi" }, { room: "chat/lobby" })')
    assert reply == {"said": "hi"}
    # Binary data is an ArrayBuffer.
    sent = """async () => {
      const pixels = new Uint8Array([1, 2, 255]).buffer;
      const reply = await socket.emitWithAck("picture", { name: "dot", pixels }, { room: "chat/lobby" });
      return [reply.pixels instanceof ArrayBuffer, [...new Uint8Array(reply.pixels)]];
    }"""
    assert page.evaluate(sent) == [True, [1, 2, 255]]
    page.wait_for_function('() => heard.some(([name]) => name === "picture")')
    heard = """() => {
      const [, data, about] = heard.find(([name]) => name === "picture");
      return [data.pixels instanceof ArrayBuffer, about.offset];
    }"""
    assert page.evaluate(heard) == [True, 2]
    page.evaluate("() => socket.disconnect()")


def test_a_page_that_loses_its_line_recovers(page, at):
    page.goto(at)
    session = page.evaluate(SPEAKS, [at, {"path": "/live/socket.io/", "transports": ["websocket"]}, "ada"])
    again = """() => new Promise((done) => {
      socket.on("connect", () => done([socket.recovered, socket.id]));
      socket.io.engine.close();
    })"""
    assert page.evaluate(again) == [True, session]
    reply = page.evaluate('() => socket.emitWithAck("say", { text: "back" }, { room: "chat/lobby" })')
    assert reply == {"said": "back"}
    page.evaluate("() => socket.disconnect()")
