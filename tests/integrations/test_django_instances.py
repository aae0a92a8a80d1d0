"""The project in several processes, which share a broker: hubs, and views under WSGI."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hubbub.testing.servers.redis import RedisServer
from integrations.django_project import EXAMPLE, Site
from integrations.waiting import until
from wire import talk

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def shared():
    async with RedisServer() as redis:
        yield {"HUBBUB_BROKER": redis.url}


class Views(Site):
    """The views under Django's own WSGI server: no hub runs there."""

    @classmethod
    def served(cls, directory, **environment):
        return cls(
            [sys.executable, "manage.py", "runserver", "--noreload", "127.0.0.1:{port}"],
            ready="/sayings/",
            environment={"EXAMPLE_DATABASE": str(directory / "db.sqlite3"), **environment},
            directory=EXAMPLE,
        )


async def test_views_under_wsgi_publish_through_the_broker(template, tmp_path, shared):
    async with (
        Site.served(template, tmp_path, "hubbub serve", **shared) as live,
        Views.served(tmp_path, **shared) as views,
        views.browser("ada") as ada,
        talk(live.live, additional_headers=ada.headers_at(live)) as client,
    ):
        await client.join("chat/lobby")
        assert await ada.post("/say/", text="from a view") == 204
        assert (await client.receive_type("said"))["data"]["text"] == "from a view"
        assert await ada.post("/asay/", text="from an asynchronous view") == 204
        assert (await client.receive_type("said"))["data"]["text"] == "from an asynchronous view"


async def test_a_logout_anywhere_closes_the_session_s_connections_everywhere(template, tmp_path, shared):
    async with (
        Site.served(template, tmp_path, "hubbub serve", **shared) as one,
        Site.served(template, tmp_path, "uvicorn", **shared) as other,
        Views.served(tmp_path, **shared) as views,
        views.browser("ada") as at_home,
        other.browser("ada") as on_the_way,
        talk(one.live, additional_headers=at_home.headers_at(one)) as first,
        talk(other.live, additional_headers=at_home.headers_at(other)) as second,
        talk(one.live, additional_headers=on_the_way.headers_at(one)) as stays,
        talk(other.live, additional_headers=on_the_way.headers_at(other)) as last,
    ):
        assert await at_home.post("/logout/") == 302
        assert await first.closed() == (4401, "You logged out.")
        assert await second.closed() == (4401, "You logged out.")
        await stays.join("chat/lobby")
        assert await on_the_way.post("/logout/") == 302
        assert await stays.closed() == (4401, "You logged out.")
        assert await last.closed() == (4401, "You logged out.")


async def test_without_a_broker_that_processes_share_a_view_is_told_and_a_logout_goes_on(template, tmp_path):
    async with (
        Site.served(template, tmp_path, "hubbub serve"),
        Views.served(tmp_path) as views,
        views.browser("ada") as ada,
    ):
        assert await ada.post("/say/", text="to nobody") == 500
        await until(lambda: "A publisher can't reach rooms at memory://" in views.log)
        assert await ada.post("/logout/") == 302


class TestTokens:
    @pytest.fixture
    def tokens(self, tmp_path):
        (tmp_path / "token_settings.py").write_text(TOKEN_SETTINGS)
        path = f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}"
        return {"PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "token_settings"}

    async def test_an_authentication_backend_that_takes_tokens_knows_a_program(
        self, template, tmp_path, tokens
    ):
        async with Site.served(template, tmp_path, "hubbub serve", **tokens) as site:
            headers = {"Authorization": "Bearer bob's token"}
            async with talk(site.live, additional_headers=headers) as client:
                await client.join("chat/lobby")
                await client.send(type="say", room="chat/lobby", data={"text": "from a program"})
                assert (await client.receive_type("said"))["data"]["author"] == "bob"
            async with talk(f"{site.live}?token=stolen", welcome=False) as client:
                await client.receive()
                assert (await client.closed())[0] == 4401

    async def test_a_login_is_renewed_with_a_token(self, template, tmp_path, tokens):
        headers = {"Authorization": "Bearer bob's token"}
        async with (
            Site.served(template, tmp_path, "hubbub serve", **tokens) as site,
            talk(site.live, additional_headers=headers) as client,
        ):
            assert (await client.ask(type="$auth", data={"token": "bob's token"}))["type"] == "$ack"
            assert (await client.ask(type="$auth", data={"token": "ada's token"}))["type"] == "$error"


TOKEN_SETTINGS = """
import os
from mysite.settings import *

AUTHENTICATION_BACKENDS = ["token_settings.Tokens", "django.contrib.auth.backends.ModelBackend"]


class Tokens:
    def authenticate(self, request, token=None):
        from django.contrib.auth.models import User

        if token is None:
            return None
        assert request.META["REQUEST_METHOD"] == "GET"
        return User.objects.filter(username=token.removesuffix("'s token")).first()

    def get_user(self, pk):
        return None
"""


async def test_no_database_connection_is_left_open_by_handlers(template, tmp_path):
    async with (
        Site.served(template, tmp_path, "hubbub serve", EXAMPLE_SESSION_CHECK="0.1") as site,
        site.browser("ada") as ada,
        talk(site.live, additional_headers=ada.headers) as client,
    ):
        await client.join("chat/lobby")
        for number in range(5):
            await client.ask(type="say", room="chat/lobby", data={"text": str(number)})
        await ada.post("/asay/", text="with the asynchronous ORM")
        await until(lambda: not opened(site.pid, tmp_path / "db.sqlite3"))


def opened(pid: int, path: Path) -> int:
    """Return how often a process has a file open."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            count += descriptor.readlink() == path
    return count
