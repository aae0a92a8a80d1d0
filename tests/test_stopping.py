"""A signal lets the clients go before the server takes it, whoever serves."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hubbub import Hubbub, Settings
from hubbub.stopping import Signals

pytestmark = pytest.mark.anyio


class Host:
    """A server's handler of signals, and a drain that ends when it is told to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.changed = asyncio.Event()
        self.may_end = asyncio.Event()
        self.problem: Exception | None = None

    def say(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()

    def take(self, sig: int, frame: object) -> None:
        self.say("taken")

    async def drain(self) -> None:
        self.say("drain")
        await self.may_end.wait()
        if self.problem is not None:
            raise self.problem
        self.say("drained")

    async def until(self, *told: str) -> None:
        async with asyncio.timeout(10):
            while self.told != list(told):
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def host() -> Iterator[Host]:
    before = signal.getsignal(signal.SIGTERM)
    host = Host()
    signal.signal(signal.SIGTERM, host.take)
    try:
        yield host
    finally:
        signal.signal(signal.SIGTERM, before)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_the_clients_go_first(host):
    signals = Signals(host.drain)
    signals.watch()
    kill()
    await host.until("drain")
    host.may_end.set()
    await host.until("drain", "drained", "taken")
    signals.leave()
    assert signal.getsignal(signal.SIGTERM) == host.take


async def test_a_second_signal_is_passed_on_at_once(host):
    signals = Signals(host.drain)
    signals.watch()
    kill()
    await host.until("drain")
    kill()
    await host.until("drain", "taken")
    host.may_end.set()
    await host.until("drain", "taken", "drained", "taken")
    signals.leave()


async def test_a_second_signal_is_passed_on_though_the_event_loop_is_busy(host):
    signals = Signals(host.drain)
    signals.watch()
    kill()
    kill()  # the event loop has had no turn since
    assert host.told == ["taken"]
    host.may_end.set()
    await host.until("taken", "drain", "drained", "taken")
    signals.leave()


async def test_what_the_server_s_handler_raises_is_told(host):
    def fail(sig: int, frame: object) -> None:
        raise LookupError("of the handler")

    signal.signal(signal.SIGTERM, fail)
    told: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.set_result(context))
    signals = Signals(host.drain)
    signals.watch()
    host.may_end.set()
    kill()
    async with asyncio.timeout(10):
        assert str((await told)["exception"]) == "of the handler"
    signals.leave()


def test_a_handler_that_leaves_the_program_does_so():
    async def main() -> None:
        async with Hubbub().lifespan():
            kill()
            await asyncio.Event().wait()

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    try:
        with pytest.raises(SystemExit) as left:
            asyncio.run(main())
        assert left.value.code == 3
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_hubs_that_come_and_go_in_any_order_pass_on_each_signal_once(host):
    host.may_end.set()
    one, other = Signals(host.drain), Signals(host.drain)
    one.watch()
    other.watch()
    one.leave()
    other.leave()
    one.watch()  # where `other` has put its handler back
    kill()
    await host.until("drain", "drained", "taken")
    one.leave()
    assert host.told == ["drain", "drained", "taken"]


async def test_a_hub_that_starts_anew_lets_the_clients_go_anew(host):
    host.may_end.set()
    signals = Signals(host.drain)
    for _ in range(2):
        host.told.clear()
        signals.watch()
        kill()
        await host.until("drain", "drained", "taken")
        signals.leave()


async def test_a_hub_that_is_told_so_leaves_signals_alone(host):
    async with Hubbub(Settings(drain_at_signals=False)).lifespan():
        assert signal.getsignal(signal.SIGTERM) == host.take


async def test_a_drain_that_fails_is_logged_and_holds_nothing_up(host, caplog):
    signals = Signals(host.drain)
    signals.watch()
    host.problem = LookupError("of the drain")
    host.may_end.set()
    kill()
    await host.until("drain", "taken")
    assert "of the drain" in caplog.text
    signals.leave()


async def test_once_it_has_left_the_signal_is_the_server_s(host):
    signals = Signals(host.drain)
    signals.watch()
    held = signal.getsignal(signal.SIGTERM)
    signals.leave()
    kill()
    await host.until("taken")
    assert callable(held)
    held(signal.SIGTERM, None)  # somebody kept it, and passes a signal on
    await host.until("taken", "taken")


async def test_where_nobody_waits_for_a_signal_nothing_is_done():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with Hubbub().lifespan():
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_program_that_an_interrupt_cancels_ends_its_hub_in_order():
    told: list[str] = []

    async def main() -> None:
        hub = Hubbub()
        hub.on_shutdown(lambda: told.append("shutdown"))
        before = signal.getsignal(signal.SIGINT)
        async with hub.lifespan():
            assert signal.getsignal(signal.SIGINT) is before
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert told == ["shutdown"]


async def test_another_thread_s_event_loop_takes_no_signals(host):
    def elsewhere() -> None:
        async def watch() -> None:
            Signals(host.drain).watch()

        asyncio.run(watch())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert signal.getsignal(signal.SIGTERM) == host.take


async def test_a_hub_lets_go_at_a_signal_and_gives_it_back(host):
    hub = Hubbub()
    async with hub.lifespan():
        assert signal.getsignal(signal.SIGTERM) != host.take
        kill()
        await host.until("taken")
        assert hub.unready == "it is about to stop"
    assert signal.getsignal(signal.SIGTERM) == host.take


async def test_a_hub_that_nobody_starts_or_stops_runs_its_shutdown_hooks_at_a_signal(host):
    hub = Hubbub()
    hub.on_shutdown(lambda: host.say("shutdown"))
    answer = asgi_get(hub, "/readyz")
    assert await answer == 200
    kill()
    await host.until("shutdown", "taken")
    assert await asgi_get(hub, "/readyz") == 503
    assert signal.getsignal(signal.SIGTERM) == host.take


async def asgi_get(hub: Hubbub, path: str) -> int:
    """Ask as a server without lifespan does, and return the status."""
    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await hub(scope, receive, send)
    return told[0]["status"]
