"""The hub of a Django project, and the ASGI application with the hub and the project's views in it."""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable

from django.conf import settings as project
from starlette.types import ASGIApp, Receive, Scope, Send

from ...app import Hubbub
from ...brokers.base import Broker
from ...engine.connection import Connection
from ...entrance import refuse
from ...errors import ConfigurationError
from . import configuration
from .login import log_in
from .upkeep import Upkeep


class DjangoHub(Hubbub):
    """A hub that knows the project: its settings, its users and their sessions.

    Unless the application has an `authenticate` hook, a connection's user is the one that is logged in in its
    session. As an ASGI application it can also be put into a ``URLRouter`` of Django Channels.
    """

    _path_routing = True  # URLRouter then leaves the rest of the path to it

    def __init__(self) -> None:
        said = configuration.read()
        super().__init__(said.settings)
        self.prefix = said.path
        """Path under which :func:`get_asgi_application` has it."""
        self.session_check = said.session_check
        """Seconds after which it is looked again whether a session is good; 0 is never."""
        self.problems = said.problems
        """What is wrong with the project's settings; it does not start with any."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closing: list[Callable[[], Awaitable[None]]] = []
        """What is called, once, when it has stopped: who uses its event loop, or its broker's store."""
        self._upkeep = Upkeep(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that it runs on; None while it does not run in this process."""
        # A test's may have ended without a word, and with it what was handed over.
        return self._loop if self._loop is not None and self._loop.is_running() else None

    @property
    def knows_users_by_session(self) -> bool:
        """Whether the application leaves it to Django's sessions who a user is."""
        hook = self._hooks.authenticate
        return hook is None or hook.function is log_in

    @property
    def running_broker(self) -> Broker:
        """The broker's object; :exc:`ConfigurationError` if the hub does not run."""
        return self._hub.running.broker

    def open_connections(self) -> list[Connection]:
        """Return the connections to this instance."""
        return list(self._hub.connections.values())

    async def start(self) -> None:
        """Start as every hub does; :exc:`ConfigurationError` if the project's settings can't be."""
        if self.problems:
            raise ConfigurationError(" ".join(self.problems))
        if self._hooks.authenticate is None:
            self.authenticate(log_in)
        await super().start()
        if self.loop is None:
            self._loop = asyncio.get_running_loop()
            self._upkeep.start()

    async def stop(self) -> None:
        """Stop as every hub does."""
        await self._upkeep.stop()
        closing, self.closing = self.closing, []
        try:
            await super().stop()
        finally:
            try:
                for close in closing:
                    await close()
            finally:
                self._loop = None

    def forked(self) -> None:
        """Take that this is a child made by fork: the hub runs in its parent."""
        self._loop = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope, also one from whose path Channels' ``URLRouter`` took a part."""
        if "path_remaining" in scope:
            path: str = scope["path"]
            taken = path.removesuffix(scope["path_remaining"])
            scope = {**scope, "root_path": taken.rstrip("/")}
            del scope["path_remaining"]
        await super().__call__(scope, receive, send)


@functools.cache
def the_hub() -> DjangoHub:
    """Return the one hub of this process."""
    hub = DjangoHub()
    os.register_at_fork(after_in_child=hub.forked)
    return hub


class Application:
    """The hub under its path, Django everywhere else. `app` is the hub, for who looks for one."""

    def __init__(self, hub: DjangoHub, django: ASGIApp) -> None:
        self.app = hub
        self._django = django
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        hub = self.app
        if scope["type"] == "lifespan":
            self._begun = True
            await hub(scope, receive, send)
            return
        if not self._begun:
            # Under a server without lifespan, such as Daphne. Views publish, too: clients are not waited for.
            await hub.start()
            self._begun = True
        root: str = scope.get("root_path", "")
        path = scope["path"].removeprefix(root)
        if path == hub.prefix or path.startswith(hub.prefix + "/"):
            await hub({**scope, "root_path": root + hub.prefix}, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await refuse(scope, send, 404, f"There is no WebSocket at {path}.\n")
        else:
            await self._django(scope, receive, send)


def get_asgi_application() -> Application:
    """Return what ``asgi.py`` calls `application`: Django's own, with the hub under ``HUBBUB["path"]``.

    It has a lifespan. With ``DEBUG`` it also serves static files, as ``runserver`` does.
    """
    from django.core.asgi import get_asgi_application as get_django

    django: ASGIApp = get_django()
    if project.DEBUG and "django.contrib.staticfiles" in project.INSTALLED_APPS:
        from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

        django = ASGIStaticFilesHandler(django)
    return Application(the_hub(), django)
