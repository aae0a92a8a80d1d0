"""The tutorial, as a reader goes through it: lines typed into `hubbub connect`, and the page in a browser."""

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from chromium import chromium, needs_chromium
from docs.exchange import WRITTEN_URL, steps
from docs.pages import Shelf, blocks, files, read

PAGE = "docs/tutorial.md"
COMES_BACK = 30_000  # milliseconds: the first delays may add up to 15 s


def versions(name: str) -> list[str]:
    return [file.text for file in files(PAGE) if file.name == name]


def exchanges() -> list[str]:
    return [block.text for block in blocks(PAGE) if block.language == "wire"]


@pytest.mark.parametrize("number", [0, 1])
def test_the_lines_typed_have_these_answers(number, shelf, serve, in_a_shell) -> None:
    (shelf.directory / "chat.py").write_text(versions("chat.py")[0])
    said = list(steps(exchanges()[number]))
    typed = "".join(f"{step.rest}\n" for step in said if step.what == "→")
    answers = [json.loads(step.rest) for step in said if step.what == "←"]
    url = serve(shelf.module("chat").hub).url
    finished = in_a_shell("hubbub", "connect", url, "--count", str(len(answers)), input=typed)
    assert finished.returncode == 0, finished.stderr
    shown = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [(message["type"], message.get("id")) for message in shown] == [
        (answer["type"], answer.get("id")) for answer in answers
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Window:
    """A browser window with the tutorial's page."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        self.state = page.locator("#state")
        self.messages = page.locator("#messages li")

    def say(self, text: str) -> None:
        self.page.get_by_label("Message").fill(text)
        self.page.get_by_role("button", name="Send").click()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing about it."""

    def log_message(self, *arguments: object) -> None:
        pass


@needs_chromium
class TestThePage:
    @pytest.fixture
    def pages(self, tmp_path: Path) -> Iterator[str]:
        """A server for the page, as the tutorial has one; its address."""
        handler = functools.partial(Quiet, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield f"http://localhost:{server.server_port}"
            server.shutdown()
            thread.join()

    @pytest.fixture
    def hub(self, shelf: Shelf, pages: str, monkeypatch: pytest.MonkeyPatch):
        assert "--allowed-origins http://localhost:8080" in read(PAGE)
        monkeypatch.setenv("HUBBUB_ALLOWED_ORIGINS", pages)
        (shelf.directory / "chat.py").write_text(versions("chat.py")[-1])
        return shelf.module("chat").hub

    @pytest.fixture
    def open_window(self, browser: Browser, pages: str, tmp_path: Path):
        windows: list[Window] = []

        def open_window(name: str, url: str) -> Window:
            path = tmp_path / "index.html"
            path.write_text(versions("index.html")[0].replace(WRITTEN_URL, url))
            windows.append(Window(browser.new_page(), f"{pages}/index.html?name={name}"))
            return windows[-1]

        yield open_window
        for window in windows:
            window.page.close()
            assert window.errors == []

    def test_two_people_talk(self, hub, serve, open_window) -> None:
        url = serve(hub).url
        ada = open_window("ada", url)
        expect(ada.state).to_have_text("Connected as ada.")
        ada.say("Hello?")
        expect(ada.messages).to_have_text(["ada: Hello?"])
        bob = open_window("bob", url)
        expect(bob.messages).to_have_text(["ada: Hello?"])
        bob.say("<b>Hi</b>")
        expect(ada.messages).to_have_text(["ada: Hello?", "bob comes in.", "bob: <b>Hi</b>"])
        bob.page.close()
        expect(ada.messages.last).to_have_text("bob is gone.")

    def test_who_has_no_name_is_told(self, hub, serve, open_window) -> None:
        window = open_window("", serve(hub).url)
        expect(window.messages).to_have_text(
            ["Please give a name of up to 24 letters and digits, as in /?name=ada"]
        )
        expect(window.state).to_have_text("Not connected.")

    def test_after_a_restart_it_is_back_and_tells_that_messages_are_missing(
        self, hub, serve, open_window
    ) -> None:
        served = serve(hub)
        ada = open_window("ada", served.url)
        ada.say("before")
        expect(ada.messages).to_have_text(["ada: before"])
        served.stop()
        expect(ada.state).to_have_text("Not connected.")
        serve(hub, port=served.port)
        expect(ada.state).to_have_text("Connected as ada.", timeout=COMES_BACK)
        ada.say("after")
        expect(ada.messages).to_have_text(
            ["ada: before", "Some messages are missing here.", "ada: after"], timeout=COMES_BACK
        )

    def test_when_the_line_was_cut_nothing_is_missing(self, hub, serve, open_window) -> None:
        url = serve(hub).url
        ada, bob = open_window("ada", url), open_window("bob", url)
        expect(ada.state).to_have_text("Connected as ada.")
        expect(bob.state).to_have_text("Connected as bob.")
        ada.say("one")
        expect(bob.messages.last).to_have_text("ada: one")
        bob.page.evaluate("socket.onclose = null; socket.close()")
        ada.say("two")
        ada.say("three")
        expect(ada.messages.filter(has_text="three")).to_have_count(1)
        bob.page.evaluate("closed({ code: 1006 })")
        expect(bob.messages.filter(has_text="ada: ")).to_have_text(["ada: one", "ada: two", "ada: three"])
