"""Real servers for the tests: in a thread of this process, on a free port."""

import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from starlette.types import ASGIApp

from hubbub import Hubbub, Settings
from hubbub.listening import listen
from hubbub.server import Server
from hubbub.stopping import SIGNALS

STARTS_WITHIN = 10.0
STOPS_WITHIN = 15.0


class Served:
    """A server that runs in a thread."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.settings = settings
        self._socket = listen(settings)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self.http = f"http://127.0.0.1:{self.port}"
        self._started = threading.Event()
        self.server = _Announcing(app, settings, self._started)
        self._thread = threading.Thread(target=self.server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        assert self._started.wait(STARTS_WITHIN), "the server did not start"

    def stop(self) -> None:
        """Stop as a first SIGTERM does; return when the server has."""
        self.server.should_exit = True
        self._thread.join(STOPS_WITHIN)
        assert not self._thread.is_alive(), "the server did not stop"

    def begin_to_stop(self) -> None:
        """Have the server stop, without waiting for it."""
        self.server.should_exit = True


class _Announcing(Server):
    def __init__(self, app: ASGIApp, settings: Settings, started: threading.Event) -> None:
        super().__init__(app, settings)
        self._announce = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce.set()


Serve = Callable[..., Served]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_configure() -> None:
    """Take SIGINT as usual, also where a shell runs the tests in the background and so has it ignored.

    asyncio sets it to the default wherever it gives a handler of it back.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """Have a test that leaves a handler of a signal behind fail, rather than a test after it.

    As clients of python-socketio do, where they are not told ``handle_sigint=False``.
    """
    before = [signal.getsignal(sig) for sig in SIGNALS]
    yield
    assert [signal.getsignal(sig) for sig in SIGNALS] == before


@pytest.fixture(params=["native", "asgi"])
def native(request: pytest.FixtureRequest) -> bool:
    """Both transports, one after the other."""
    return request.param == "native"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate for localhost that signs itself, and its key."""
    openssl = shutil.which("openssl")
    assert openssl, "These tests make a certificate with the program openssl. Install it (Debian: openssl)."
    folder = tmp_path_factory.mktemp("tls")
    files = {"ssl_certfile": str(folder / "certificate.pem"), "ssl_keyfile": str(folder / "key.pem")}
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", files["ssl_keyfile"], "-out", files["ssl_certfile"]),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return files


@contextmanager
def serving() -> Iterator[Serve]:
    with ExitStack() as stack:

        def serve(app: ASGIApp, settings: Settings | None = None, **changes: object) -> Served:
            """Serve an application; a hub's own settings apply, but for the address."""
            base = settings or (app.settings if isinstance(app, Hubbub) else Settings())
            values = {name: getattr(base, name) for name in base.__struct_fields__}
            served = Served(app, Settings(**{**values, "port": 0, "drain": 2.0, **changes}))  # type: ignore[arg-type]
            stack.callback(served.stop)
            return served

        yield serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve applications over the native transport, or with `native=False` over plain ASGI."""
    with serving() as start:
        yield start


@pytest.fixture
def start(native: bool, serve: Serve) -> Serve:
    """Serve applications over each transport in turn: the test runs twice."""

    def start_one(app: ASGIApp, settings: Settings | None = None, **changes: object) -> Served:
        return serve(app, settings, native=native, **changes)

    return start_one
