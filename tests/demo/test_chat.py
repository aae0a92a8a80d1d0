"""The demo chat, as people use it: windows of a real browser, the server a process of its own."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, WebSocketRoute, expect

from chromium import chromium, needs_chromium

RECONNECTED = 30_000  # milliseconds: the first five delays may add up to 15 s, and a server has to start
ANY_HUB = re.compile("ws://")

expect.set_options(timeout=15_000)  # milliseconds: room for a busy machine, not a promise

pytestmark = needs_chromium


class Server:
    """`hubbub serve hubbub.demo:app`, which can be killed and started again on the same port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log: list[str] = []
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "hubbub", "serve", "hubbub.demo:app", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        listening = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(listening,))
        self.reader.start()
        if not listening.wait(timeout=30):
            self.stop(signal.SIGKILL)
            pytest.fail("the server did not start:\n" + "".join(self.log))

    def _read(self, listening: threading.Event) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if "listening" in line:
                listening.set()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=20)
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()
    assert not [line for line in server.log if "ERROR" in line]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Window:
    """A browser window with the chat in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"a dialog opened: {dialog.message}"))
        page.set_default_timeout(10_000)
        self.state = page.locator("#state")
        self.detail = page.locator("#detail")
        self.people = page.get_by_role("region", name="Here now").locator(".name")
        self.log = page.locator("#log")
        self.said = self.log.locator(".words")
        self.waiting = page.locator("#waiting .words")
        self.box = page.get_by_label("Your message")

    def choose_name(self, name: str) -> None:
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_role("button", name="Come in").click()

    def enter(self, name: str) -> "Window":
        self.choose_name(name)
        expect(self.state).to_have_text("Online.")
        expect(self.people.filter(has_text=name)).to_have_count(1)
        return self

    def say(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def room(self, name: str) -> Locator:
        return self.page.get_by_role("navigation", name="Rooms").locator(f'a[href="#{name}"]')


Open = Callable[..., Window]


@pytest.fixture
def room() -> str:
    """A room that no other test uses."""
    return f"room-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def open_window(browser: Browser, room: str) -> Iterator[Open]:
    """Open windows: by default in the test's room, and each with a browser profile of its own."""
    with ExitStack() as contexts:
        windows: list[Window] = []

        def open_window(server: Server, context: BrowserContext | None = None, place: str = room) -> Window:
            if context is None:
                context = browser.new_context()
                contexts.callback(context.close)
            window = Window(context.new_page())
            windows.append(window)
            window.page.goto(f"{server.url}#{place}")
            return window

        yield open_window
        assert [error for window in windows for error in window.errors] == []


class Gate:
    """Stands between a window and its server, and can part them while both live on."""

    def __init__(self) -> None:
        self.open = True
        self.lines: list[WebSocketRoute] = []
        self.loses: Callable[[dict[str, object]], bool] = lambda message: False

    def guard(self, window: Window) -> None:
        window.page.route_web_socket(ANY_HUB, self._connect)

    def shut(self) -> None:
        self.open = False
        for line in self.lines:
            line.close(code=1012)
        self.lines.clear()

    def _connect(self, line: WebSocketRoute) -> None:
        if not self.open:
            line.close(code=1012)
            return
        self.lines.append(line)
        server = line.connect_to_server()

        def to_page(text: str | bytes) -> None:
            if self.loses(json.loads(text)):
                self.shut()
            elif self.open:
                line.send(text)

        server.on_message(to_page)


def test_two_windows_talk_with_each_other(server: Server, open_window: Open) -> None:
    ada, bob = open_window(server).enter("ada"), open_window(server).enter("bob")

    ada.say("Is anybody here?")
    expect(bob.said).to_have_text(["Is anybody here?"])
    bob.say("Yes,\nme.")

    for window in (ada, bob):
        expect(window.said).to_have_text(["Is anybody here?", "Yes,\nme."])
        expect(window.log.locator(".author")).to_have_text(["ada", "bob"])
        expect(window.waiting).to_have_count(0)


def test_people_appear_and_disappear_as_they_come_and_go(server: Server, open_window: Open) -> None:
    ada, bob = open_window(server).enter("ada"), open_window(server).enter("bob")
    expect(ada.people).to_have_text(["ada", "bob"])
    expect(bob.people).to_have_text(["bob", "ada"])

    again = open_window(server).enter("bob")
    expect(again.people).to_have_text(["bob", "ada"])
    expect(ada.people).to_have_text(["ada", "bob"])

    again.page.close()
    carol = open_window(server).enter("carol")
    expect(ada.people).to_have_text(["ada", "bob", "carol"])
    bob.page.close()
    expect(ada.people).to_have_text(["ada", "carol"])
    expect(carol.people).to_have_text(["carol", "ada"])
    expect(ada.page.locator("#head-count")).to_have_text("2 here")


def test_whoever_comes_later_sees_what_was_said_before(server: Server, open_window: Open) -> None:
    ada = open_window(server).enter("ada")
    for number in range(3):
        ada.say(f"message {number}")
    expect(ada.said).to_have_count(3)

    bob = open_window(server).enter("bob")
    expect(bob.said).to_have_text(["message 0", "message 1", "message 2"])
    ada.say("message 3")
    expect(bob.said).to_have_text(["message 0", "message 1", "message 2", "message 3"])


def test_typing_is_shown_to_the_others_until_the_message_is_there(server: Server, open_window: Open) -> None:
    ada, bob = open_window(server).enter("ada"), open_window(server).enter("bob")
    bob.box.press_sequentially("Hm")
    expect(ada.page.locator("#typing")).to_have_text("bob is typing…")
    expect(bob.page.locator("#typing")).to_have_text("")
    bob.box.press("Enter")
    expect(ada.said).to_have_text(["Hm"])
    expect(ada.page.locator("#typing")).to_have_text("")


def test_rooms_are_apart_and_show_what_is_unread(server: Server, open_window: Open, room: str) -> None:
    ada, bob = open_window(server).enter("ada"), open_window(server).enter("bob")
    other = f"other-{room}"
    ada.page.get_by_label("New room").fill(other.replace("-", " ").title())
    ada.page.get_by_label("New room").press("Enter")
    expect(ada.page).to_have_url(f"{server.url}#{other}")
    expect(ada.people).to_have_text(["ada"])

    bob.say("Where are you?")
    expect(ada.room(room)).to_contain_text("1")
    expect(ada.said).to_have_count(0)
    ada.room(room).click()
    expect(ada.said).to_have_text(["Where are you?"])

    ada.page.get_by_role("button", name=f"Leave {other}").click()
    expect(ada.room(other)).to_have_count(0)
    expect(ada.page).to_have_url(f"{server.url}#{room}")


def test_a_room_that_the_server_refuses_is_refused_with_its_words(
    server: Server, open_window: Open, room: str
) -> None:
    ada = open_window(server).enter("ada")
    ada.page.get_by_label("New room").fill("Nowhere!")
    ada.page.get_by_label("New room").press("Enter")
    expect(ada.page.get_by_role("alert")).to_contain_text("Please name the room")
    expect(ada.page).to_have_url(f"{server.url}#{room}")
    ada.say("Still here")
    expect(ada.said).to_have_text(["Still here"])


def test_who_has_come_in_writes_at_once_and_the_keyboard_stays_where_they_take_it(
    server: Server, open_window: Open
) -> None:
    ada = open_window(server)
    ada.page.evaluate(
        """() => {
            const dialog = document.getElementById("welcome");
            const closed = new Promise((done) => dialog.addEventListener("close", () => setTimeout(done)));
            window.focuses = new Promise((done) =>
                new MutationObserver(async () => {
                    const first = document.activeElement.id;
                    document.getElementById("new-room-name").focus();
                    await closed;
                    done([first, document.activeElement.id]);
                }).observe(dialog, { attributeFilter: ["open"] }),
            );
        }"""
    )
    ada.enter("ada")
    assert ada.page.evaluate("window.focuses") == ["text", "new-room-name"]


def test_a_name_that_the_server_refuses_is_refused_with_its_words(server: Server, open_window: Open) -> None:
    ada = open_window(server)
    ada.choose_name("a" * 25)
    expect(ada.page.get_by_role("alert")).to_contain_text("Please choose a name")
    ada.enter("ada")
    expect(ada.page.get_by_role("dialog")).to_be_hidden()


def test_the_name_is_remembered_by_the_window_and_proposed_to_the_next(
    server: Server, open_window: Open
) -> None:
    ada = open_window(server).enter("ada")
    ada.page.reload()
    expect(ada.people).to_have_text(["ada"])

    second = open_window(server, ada.page.context)
    expect(second.page.get_by_label("Your name")).to_have_value("ada")
    second.enter("bob")
    expect(ada.people).to_have_text(["ada", "bob"])

    ada.page.get_by_role("button", name="Change name").click()
    ada.choose_name("countess")
    expect(second.people).to_have_text(["bob", "countess"])


def test_markup_is_shown_as_text(server: Server, open_window: Open) -> None:
    markup = "<img src=x onerror=alert(1)>"
    script = "<script>alert(2)</script><b>bold</b> &amp;"
    ada, bob = open_window(server).enter("ada"), open_window(server).enter(markup[:24])
    bob.say(script)
    for window in (ada, bob):
        expect(window.said).to_have_text([script])
        expect(window.log.locator(".author")).to_have_text([markup[:24]])
        expect(window.page.locator("body img, .words *")).to_have_count(0)


def test_the_page_may_run_its_own_files_only(server: Server, open_window: Open) -> None:
    ada = open_window(server)
    response = ada.page.request.get(server.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    loaded = ada.page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert all(address.startswith(server.url) for address in loaded)


def test_after_a_lost_connection_what_was_missed_appears_once_and_in_order(
    server: Server, open_window: Open
) -> None:
    ada, bob = open_window(server), open_window(server).enter("bob")
    gate = Gate()
    gate.guard(ada)
    ada.enter("ada")
    bob.say("one")
    expect(ada.said).to_have_text(["one"])

    gate.shut()
    expect(ada.state).to_have_text("Connection lost.")
    expect(bob.people).to_have_text(["bob"])
    for text in ("two", "three"):
        bob.say(text)
    ada.say("four")
    expect(ada.waiting).to_have_text(["four"])
    expect(ada.detail).to_contain_text("1 message waits to be sent.")
    expect(bob.said).to_have_text(["one", "two", "three"])

    gate.open = True
    expect(ada.state).to_have_text("Back online.", timeout=RECONNECTED)
    for window in (ada, bob):
        expect(window.said).to_have_text(["one", "two", "three", "four"])
        expect(window.log.locator(".note")).to_have_count(0)
    expect(ada.waiting).to_have_count(0)
    expect(bob.people).to_have_text(["bob", "ada"])


def test_a_message_whose_acknowledgement_was_lost_appears_once(server: Server, open_window: Open) -> None:
    ada, bob = open_window(server), open_window(server).enter("bob")
    gate = Gate()
    gate.guard(ada)
    ada.enter("ada")
    gate.loses = lambda message: message["type"] == "say"
    ada.say("once")
    expect(bob.said).to_have_text(["once"])
    expect(ada.state).to_have_text("Connection lost.")

    gate.loses = lambda message: False
    gate.open = True
    expect(ada.state).to_have_text("Back online.", timeout=RECONNECTED)
    ada.say("twice")
    for window in (ada, bob):
        expect(window.said).to_have_text(["once", "twice"])


def test_only_so_many_messages_wait_for_the_connection(server: Server, open_window: Open) -> None:
    ada = open_window(server)
    gate = Gate()
    gate.guard(ada)
    ada.enter("ada")
    gate.shut()
    expect(ada.state).to_have_text("Connection lost.")
    texts = [str(number) for number in range(50)]
    for text in texts:
        ada.say(text)
    ada.say("one too many")
    expect(ada.waiting).to_have_text(texts)
    expect(ada.box).to_have_value("one too many")
    expect(ada.detail).to_contain_text("no more can be kept")

    gate.open = True
    expect(ada.said).to_have_text(texts, timeout=RECONNECTED)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "restarted"])
def test_windows_come_back_after_the_server_and_say_that_messages_are_missing(
    open_window: Open, how: signal.Signals
) -> None:
    server = Server()
    try:
        ada, bob = open_window(server).enter("ada"), open_window(server).enter("bob")
        ada.say("before")
        expect(bob.said).to_have_text(["before"])

        server.stop(how)
        for window in (ada, bob):
            expect(window.state).to_have_text("Connection lost.")
            expect(window.detail).to_contain_text(re.compile(r"Next attempt in \d s\.|Trying again"))
        ada.say("meanwhile")
        server.start()

        for window in (ada, bob):
            expect(window.state).to_have_text("Back online.", timeout=RECONNECTED)
            expect(window.log.locator(".note")).to_have_text(["Some messages are missing here."])
        bob.say("after")
        expect(bob.said).to_contain_text(["before", "after"])
        for window in (ada, bob):
            expect(window.said.filter(has_text="meanwhile")).to_have_count(1)
            expect(window.said.filter(has_text="after")).to_have_count(1)
            expect(window.people).to_have_count(2)
    finally:
        server.stop()


def answer_with_welcome_and(then: Callable[[WebSocketRoute], None]) -> Callable[[WebSocketRoute], None]:
    """Play a server that greets, and then does something that a real one does rarely."""

    def serve(line: WebSocketRoute) -> None:
        welcome = {"protocol": 1, "session": "s", "connection": "c", "resumed": False, "user": "ada"}
        welcome |= {"heartbeat": 0.2, "max_message": 1000}
        line.send(json.dumps({"type": "$welcome", "data": welcome}))
        then(line)

    return serve


def test_a_silent_line_counts_as_lost(server: Server, open_window: Open) -> None:
    ada = open_window(server)
    ada.page.route_web_socket(ANY_HUB, answer_with_welcome_and(lambda line: line.on_message(lambda _: None)))
    ada.choose_name("ada")
    expect(ada.state).to_have_text("Connection lost.")


def test_a_draining_server_says_when_to_come_back(server: Server, open_window: Open) -> None:
    def drain(line: WebSocketRoute) -> None:
        line.send(json.dumps({"type": "$drain", "data": {"after": 40}}))
        line.close(code=1012)

    ada = open_window(server)
    ada.page.route_web_socket(ANY_HUB, answer_with_welcome_and(drain))
    ada.choose_name("ada")
    expect(ada.state).to_have_text("Connection lost.")
    expect(ada.detail).to_contain_text(re.compile(r"Next attempt in [34]\d s\."))


def test_a_window_that_may_not_come_back_says_why_and_stays_away(server: Server, open_window: Open) -> None:
    connections: list[WebSocketRoute] = []

    def replace(line: WebSocketRoute) -> None:
        connections.append(line)
        line.close(code=4409, reason="The chat goes on in another window.")

    ada = open_window(server)
    ada.page.route_web_socket(ANY_HUB, answer_with_welcome_and(replace))
    ada.choose_name("ada")
    expect(ada.state).to_have_text("The chat goes on in another window.")
    assert len(connections) == 1
    ada.page.get_by_role("button", name="Try now").click()
    expect(ada.state).to_have_text("The chat goes on in another window.")
    assert len(connections) == 2
