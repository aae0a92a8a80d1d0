"""The server: uvicorn, set up for the hot path, with a drain before it stops."""

import asyncio
import functools
import importlib
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.server import ServerState
from uvicorn.supervisors import ChangeReload

from .app import Hubbub
from .errors import ConfigurationError
from .listening import listen, url_of
from .observe.log import configure, fields, logger
from .settings import Settings
from .transports.admission import Forwarded, Proxies, Waiting
from .transports.http import MAX_LINGERING, HTTPProtocol, HTTPState
from .transports.native import WebSocketProtocol as NativeProtocol
from .transports.tls import TLSListener
from .transports.uvicorn import LimitedProtocol
from .workers import Workers

if TYPE_CHECKING:
    from .transports.grpc import GRPCServer

__all__ = ["Server", "WebSocketProtocol", "load", "run", "serve"]


class WebSocketProtocol(NativeProtocol):
    """The fast path under any uvicorn: ``uvicorn module:app --ws hubbub.server:WebSocketProtocol``.

    Without `settings`, those of the hub in the application apply, or else of the environment.
    """

    __slots__ = ()

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        super().__init__(config, server_state, app_state, settings=settings or _settings_under(config))


_SETTINGS: "WeakKeyDictionary[uvicorn.Config, Settings]" = WeakKeyDictionary()


def _settings_under(config: uvicorn.Config) -> Settings:
    settings = _SETTINGS.get(config)
    if settings is None:
        settings = _SETTINGS[config] = settings_of(config.loaded_app)
    return settings


RESERVE = 32 + MAX_LINGERING
"""File descriptors that are left for the application, log files and connections that are being refused."""


LAST_WORDS = 0.5
"""Seconds that gRPC calls have to end in when all lines have ended."""


class Server(uvicorn.Server):
    """Serves one process. A first signal drains, a second one ends it at once.

    `descriptors` is how many files the process may have open, if that may limit the connections.
    """

    server_state: HTTPState

    def __init__(self, app: ASGIApp, settings: Settings, descriptors: int | None = None) -> None:
        places = places_for(settings.max_connections, descriptors)
        state = HTTPState(settings, places)
        super().__init__(config_for(app, settings, state.proxies))
        self._hub = find_hub(app)
        if self._hub is not None:
            self._hub.signals = None  # this server sees to it
        self.server_state = state
        self._drain = settings.drain
        self._taken: set[int] = set()
        self.grpc: GRPCServer | None = None
        """The gRPC server beside it, if there is one."""
        self._settings = msgspec.structs.replace(settings, max_connections=places)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and the hub in it even where the host's lifespan does not."""
        try:
            self._open_grpc()
        except ConfigurationError as problem:
            logger.error(str(problem))  # it is a sentence for people
            sys.exit(STARTUP_FAILURE)
        tls = self.config.ssl
        await super().startup([] if tls and sockets else sockets)
        if tls and sockets:
            for listener in sockets:
                server = TLSListener(listener, tls, self.server_state, self._after_tls)
                server.start(self.config.backlog)
                self.servers.append(server)  # type: ignore[arg-type]  # of which uvicorn uses what it has
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        if self._hub is not None:
            try:
                await self._hub.start()
                if self.grpc is not None:
                    await self.grpc.start()
            except ConfigurationError as problem:
                logger.error(str(problem))  # it is a sentence for people
                sys.exit(STARTUP_FAILURE)

    async def on_tick(self, counter: int) -> bool:
        """Look after those that have to get on, ten times a second."""
        self.server_state.expire(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def _open_grpc(self) -> None:
        settings = self._settings
        if settings.grpc_port is None:
            return
        if self._hub is None:
            raise ConfigurationError("grpc_port is set, but the application has no hub to be served there.")
        self.grpc = self._hub.grpc_server(settings)
        logger.info("listening", extra=fields(url=self.grpc.url, pid=os.getpid()))

    def _after_tls(self, handshake: Waiting) -> HTTPProtocol:
        return HTTPProtocol(self.config, self.server_state, self.lifespan.state, admitted=handshake)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let the clients go, stop."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain
        for server in self.servers:
            server.close()
        leaving: asyncio.Task[None] | None = None
        if self.grpc is not None:
            leaving = asyncio.create_task(self.grpc.leave(self._drain), name="hubbub: leave gRPC")
        if self._hub is not None:
            drain = asyncio.create_task(self._hub.drain(), name="hubbub: drain")
            drain.add_done_callback(_tell)
            while not (drain.done() or self.force_exit):
                await asyncio.wait([drain], timeout=0.1)
            drain.cancel()
        if self.grpc is not None and leaving is not None:
            # All lines have ended; what their calls end with may still be on its way.
            await self.grpc.leave(LAST_WORDS)
            await leaving
        # What is left of the time is for HTTP requests and for handlers of connections that were cut.
        self.config.timeout_graceful_shutdown = max(1, round(deadline - loop.time()))
        await super().shutdown(sockets)
        if self._hub is not None and not self.force_exit:
            await self._hub.stop()
        logger.info("stopped")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals while the body runs. They are not raised again, as uvicorn's are: it ended well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal."""
        # One Ctrl-C can arrive twice: from the terminal as SIGINT, from a supervisor as SIGTERM.
        self.force_exit = sig in self._taken
        self._taken.add(sig)
        self.should_exit = True


def _tell(drain: asyncio.Task[None]) -> None:
    if not drain.cancelled() and (problem := drain.exception()) is not None:
        logger.error("error", exc_info=problem, extra=fields(during="letting the clients go"))


def load(target: str) -> ASGIApp:
    """Return the ASGI application that ``module:object`` names.

    Raises :exc:`ConfigurationError` with what is missing.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise ConfigurationError(f"{target!r} names no application; write module:object, such as chat:hub.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise
        raise ConfigurationError(
            f"There is no module {problem.name!r} here ({os.getcwd()}) or among the installed packages."
        ) from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"The module {module_name!r} has no {path!r}.")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigurationError(f"{target} is no ASGI application but {type(found).__name__}.")
    return found


def find_hub(app: object) -> Hubbub | None:
    """Return the hub that an application is, or has mounted; None if there is none."""
    return next(_hubs(app, set()), None)


def _hubs(app: object, seen: set[int]) -> Iterator[Hubbub]:
    if app is None or id(app) in seen:
        return
    seen.add(id(app))
    if isinstance(app, Hubbub):
        yield app
        return
    for route in getattr(app, "routes", None) or ():
        yield from _hubs(getattr(route, "app", None) or getattr(route, "callback", None), seen)
    for routed in (getattr(app, "application_mapping", None) or {}).values():
        yield from _hubs(routed, seen)
    # Middleware keeps what it is around under one of these names; the second is Django Channels'.
    yield from _hubs(getattr(app, "app", None), seen)
    yield from _hubs(getattr(app, "inner", None), seen)


def settings_of(app: ASGIApp) -> Settings:
    """Return the settings to serve an application with: its hub's, else those of the environment."""
    hub = find_hub(app)
    return hub.settings if hub else Settings.load()


def serve(target: str) -> None:
    """Serve the application that ``module:object`` names until a signal ends it.

    Raises :exc:`ConfigurationError` with a sentence for what can't work, :exc:`SystemExit` if the
    application fails to start.
    """
    app = load(target)
    settings = settings_of(app)
    configure(settings.log_level, settings.log_format)
    listener = listen(settings)
    logger.info("listening", extra=fields(url=url_of(listener, settings), app=target, pid=os.getpid()))
    try:
        if settings.reload:
            # It is handed to the process that serves, which loads the application anew.
            config = uvicorn.Config(target, reload=True, log_config=None)
            ChangeReload(config, target=functools.partial(_serve_again, target), sockets=[listener]).run()
        elif settings.workers > 1:
            Workers(settings.workers, functools.partial(_serve_again, target, [listener])).run()
        else:
            run(app, settings, [listener])
    finally:
        listener.close()
        if settings.uds is not None:
            Path(settings.uds).unlink(missing_ok=True)


def run(app: ASGIApp, settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve an application in this process, on sockets that listen already."""
    Server(app, settings, raise_descriptors()).run(sockets)


def raise_descriptors() -> int:
    """Let this process open as many files as it may be let; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # not where the system knows a lower limit; the soft one holds
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def places_for(max_connections: int, descriptors: int | None) -> int:
    """Return for how many connections there are file descriptors, of those that are wanted."""
    if descriptors is None or max_connections + RESERVE <= descriptors:
        return max_connections
    places = max(1, descriptors - RESERVE)
    logger.warning(
        "too few file descriptors for max_connections: raise the limit (ulimit -n, LimitNOFILE= in systemd) "
        "or lower the setting",
        extra=fields(
            max_connections=max_connections,
            descriptors=descriptors,
            needed=max_connections + RESERVE,
            connections=places,
        ),
    )
    return places


def _serve_again(target: str, sockets: list[socket.socket]) -> None:
    """Serve in a process that another one started."""
    app = load(target)
    settings = settings_of(app)
    configure(settings.log_level, settings.log_format)
    run(app, settings, sockets)


def config_for(app: ASGIApp, settings: Settings, proxies: Proxies) -> uvicorn.Config:
    """Return uvicorn's configuration; :exc:`ConfigurationError` for TLS files that can't be used."""
    config = uvicorn.Config(
        Forwarded(app, proxies),
        interface="asgi3",
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        workers=settings.workers,
        reload=settings.reload,
        http=HTTPProtocol,
        ws=functools.partial(  # type: ignore[arg-type]
            WebSocketProtocol if settings.native else LimitedProtocol, settings=settings
        ),
        ws_max_size=settings.max_message,
        ws_ping_interval=settings.ping_interval,
        ws_ping_timeout=settings.ping_timeout,
        ws_per_message_deflate=settings.compression,
        backlog=settings.backlog,
        root_path=settings.root_path,
        proxy_headers=False,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_keyfile_password=settings.ssl_keyfile_password,
        ssl_ca_certs=settings.ssl_ca_certs,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.ssl_ca_certs else ssl.CERT_NONE,
        ssl_ciphers=settings.ssl_ciphers,
        server_header=False,
        log_config=None,
    )
    try:
        config.load()
    except OSError as problem:
        files = f"{settings.ssl_certfile}, {settings.ssl_keyfile}"
        raise ConfigurationError(f"The TLS files ({files}) can't be used: {problem}.") from None
    return config
