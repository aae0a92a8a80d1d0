"""The example project in `examples/django`, as the tests run it: in child processes, with a database each."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from hubbub.testing.processes import Process

EXAMPLE = Path(__file__).parents[2] / "examples" / "django"

WAYS = {
    "hubbub serve": [sys.executable, "-m", "hubbub", "serve", "mysite.asgi:application", "--port", "{port}"],
    "manage.py hubbub": [sys.executable, str(EXAMPLE / "manage.py"), "hubbub", "127.0.0.1:{port}"],
    "uvicorn": [sys.executable, "-m", "uvicorn", "mysite.asgi:application", "--port", "{port}"],
    "daphne": [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", "mysite.asgi:application"],
}

WITH_CHANNELS = {"DJANGO_SETTINGS_MODULE": "mysite.settings_channels"}
"""The same project with consumers of Channels."""

WITH_CHANNELS_ASGI = "mysite.asgi_channels"

USERS = """
from django.contrib.auth.models import User
for name in ("ada", "bob"):
    User.objects.create_user(name, password=name + "'s password")
"""


def manage(database: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `manage.py` and wait for its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=EXAMPLE,
        env={**os.environ, "EXAMPLE_DATABASE": str(database), **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )


def make_database(path: Path) -> Path:
    """Make a database with two users; their passwords are ``ada's password`` and ``bob's password``."""
    for arguments in (("migrate", "--verbosity", "0"), ("shell", "--verbosity", "0", "-c", USERS)):
        finished = manage(path, *arguments)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    return path


class Site(Process):
    """The project, served; `ready` when its hub is."""

    database: Path

    @classmethod
    def served(cls, template: Path, directory: Path, way: str, **environment: str) -> "Site":
        database = directory / "db.sqlite3"
        if not database.exists():
            shutil.copy(template, database)
        asgi = WITH_CHANNELS_ASGI if environment.items() >= WITH_CHANNELS.items() else "mysite.asgi"
        site = cls(
            [part.replace("mysite.asgi", asgi) for part in WAYS[way]],
            ready="/live/readyz",
            environment={"EXAMPLE_DATABASE": str(database), "PYTHONDONTWRITEBYTECODE": "1", **environment},
            directory=EXAMPLE,
        )
        site.database = database
        return site

    @property
    def live(self) -> str:
        return self.url("/live/")

    @asynccontextmanager
    async def browser(self, name: str | None) -> AsyncIterator["Browser"]:
        """A browser in which a user has logged in with Django's login view."""
        jar = aiohttp.CookieJar(unsafe=True)  # which takes those of IP addresses
        async with aiohttp.ClientSession(self.url("/", "http"), cookie_jar=jar) as session:
            browser = Browser(session, self.url("", "http"))
            if name is not None:
                await browser.log_in(name)
            yield browser


class Browser:
    """Cookies, forms with their CSRF token, and the header with which WebSockets are opened."""

    def __init__(self, session: aiohttp.ClientSession, origin: str) -> None:
        self._session = session
        self._origin = origin

    async def log_in(self, name: str) -> None:
        await self.get("/login/")
        answer = await self.post("/login/", username=name, password=f"{name}'s password")
        assert answer == 302

    async def get(self, path: str) -> str:
        async with self._session.get(path) as answer:
            assert answer.status == 200, path
            return await answer.text()

    async def post(self, path: str, **fields: str) -> int:
        """Post a form; return the status."""
        token = self.cookies.get("csrftoken", "")
        data = {**fields, "csrfmiddlewaretoken": token}
        async with self._session.post(path, data=data, allow_redirects=False) as answer:
            return answer.status

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield what comes in a stream of server-sent events."""
        headers = {"Accept": "text/event-stream", "Origin": self._origin}
        async with self._session.get(path, headers=headers) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.key: cookie.value for cookie in self._session.cookie_jar}

    @property
    def headers(self) -> dict[str, str]:
        """What a browser sends with the opening handshake."""
        return self._headers(self._origin)

    def headers_at(self, site: Site) -> dict[str, str]:
        """What it sends to another process of the same site."""
        return self._headers(site.url("", "http"))

    def _headers(self, origin: str) -> dict[str, str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"Cookie": cookies, "Origin": origin}
