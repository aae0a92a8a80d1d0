"""The example project on real servers, with Django's own login."""

import asyncio
import json
import sqlite3

import pytest
import websockets

from integrations.django_project import WAYS, Site
from wire import talk

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=list(WAYS))
async def site(request, template, tmp_path_factory):
    async with Site.served(template, tmp_path_factory.mktemp("site"), request.param) as site:
        yield site


@pytest.fixture(scope="module")
async def served(template, tmp_path_factory):
    """The project under hubbub serve."""
    directory = tmp_path_factory.mktemp("served")
    async with Site.served(template, directory, "hubbub serve", EXAMPLE_SESSION_CHECK="0.1") as site:
        yield site


class TestOnEveryServer:
    async def test_who_logged_in_with_djangos_view_talks_and_is_kept_in_the_database(self, site):
        async with (
            site.browser("ada") as ada,
            site.browser("bob") as bob,
            talk(site.live, additional_headers=ada.headers) as adas,
            talk(site.live, additional_headers=bob.headers) as bobs,
        ):
            await adas.join("chat/lobby")
            await bobs.join("chat/lobby")
            answer = await adas.ask(type="say", room="chat/lobby", data={"text": "hi"})
            assert answer["type"] == "$ack", answer
            said = await bobs.receive_type("said")
            assert said["data"] == {"id": answer["data"]["id"], "author": "ada", "text": "hi"}
            assert said["from"] == "1"
            assert "hi" in json.loads(await bob.get("/sayings/"))["sayings"]

    async def test_views_publish(self, site):
        async with (
            site.browser("ada") as ada,
            talk(site.live, additional_headers=ada.headers) as client,
        ):
            await client.join("chat/lobby")
            assert await ada.post("/say/", text="from a view") == 204
            assert (await client.receive_type("said"))["data"]["text"] == "from a view"
            assert await ada.post("/asay/", text="from an asynchronous view") == 204
            assert (await client.receive_type("said"))["data"]["text"] == "from an asynchronous view"

    async def test_who_is_not_logged_in_is_a_guest_and_refused_by_the_hook(self, site):
        async with talk(site.live, welcome=False) as client:
            assert (await client.receive())["data"]["message"] == "Log in first."
            assert await client.closed() == (4403, "Log in first.")

    async def test_a_stream_over_http_knows_the_session_too(self, site):
        async with site.browser("ada") as ada, site.browser(None) as nobody:
            events = ada.events("/live/?room=chat/lobby")
            assert [(await anext(events))["type"] for _ in range(2)] == ["$line", "$welcome"]
            assert await ada.post("/say/", text="over HTTP") == 204
            while (event := await anext(events))["type"] != "said":
                pass
            assert event["data"]["text"] == "over HTTP"
            await events.aclose()
            refused = nobody.events("/live/?room=chat/lobby")
            while (event := await anext(refused))["type"] != "$error":
                pass
            assert event["data"]["message"] == "Log in first."
            await refused.aclose()

    async def test_paths_that_are_not_the_hub_s_are_djangos(self, site):
        async with site.browser(None) as browser:
            assert isinstance(json.loads(await browser.get("/sayings/"))["sayings"], list)
            assert "Log in" in await browser.get("/login/")
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with talk(site.url("/elsewhere/")):
                pass
        assert refused.value.response.status_code in (403, 404)
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with talk(site.url("/")):
                pass
        assert refused.value.response.status_code in (403, 404)


class TestPublishing:
    async def test_what_is_rolled_back_is_told_to_nobody(self, served):
        async with (
            served.browser("ada") as ada,
            talk(served.live, additional_headers=ada.headers) as client,
        ):
            await client.join("chat/lobby")
            assert await ada.post("/say/", text="no", fail="yes") == 204
            assert await ada.post("/say/", text="yes") == 204
            assert (await client.receive_type("said"))["data"]["text"] == "yes"
            sayings = json.loads(await ada.get("/sayings/"))["sayings"]
            assert "yes" in sayings
            assert "no" not in sayings


class TestLogin:
    async def test_logging_out_closes_the_connections_of_that_browser_only(self, served):
        async with (
            served.browser("ada") as at_home,
            served.browser("ada") as on_the_way,
            talk(served.live, additional_headers=at_home.headers) as left,
            talk(served.live, additional_headers=at_home.headers) as left_too,
            talk(served.live, additional_headers=on_the_way.headers) as stays,
        ):
            assert await at_home.post("/logout/") == 302
            assert await left.closed() == (4401, "You logged out.")
            assert await left_too.closed() == (4401, "You logged out.")
            await stays.join("chat/lobby")

    async def test_a_session_that_is_gone_closes_its_connections(self, served):
        async with (
            served.browser("ada") as ada,
            talk(served.live, additional_headers=ada.headers) as client,
        ):
            await asyncio.to_thread(forget_sessions, served.database)
            assert await client.closed() == (4401, "Log in again.")

    async def test_who_fails_to_log_in_with_a_token_still_hangs_on_the_session(self, served):
        async with (
            served.browser("ada") as ada,
            talk(served.live, additional_headers=ada.headers) as client,
        ):
            assert (await client.ask(type="$auth", data={"token": "made-up"}))["type"] == "$error"
            assert await ada.post("/logout/") == 302
            assert await client.closed() == (4401, "You logged out.")

    async def test_a_cookie_that_is_none_makes_a_guest(self, served):
        headers = {"Cookie": "sessionid=made-up"}
        async with talk(served.live, welcome=False, additional_headers=headers) as client:
            assert (await client.receive())["data"]["message"] == "Log in first."

    async def test_a_token_that_no_backend_knows_is_refused(self, served):
        async with talk(served.live + "?token=made-up", welcome=False) as client:
            assert (await client.receive())["data"]["message"] == "Log in again."
            assert await client.closed() == (4401, "Log in again.")


def forget_sessions(database):
    with sqlite3.connect(database, timeout=10) as connection:
        connection.execute("DELETE FROM django_session")
    connection.close()
