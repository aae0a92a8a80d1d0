"""Consumers of Django Channels and clients of the hub in one project, on real servers."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import websockets

from hubbub.testing.servers.redis import RedisServer
from integrations.django_project import WAYS, WITH_CHANNELS, Site, manage
from wire import ARRIVES_WITHIN, talk

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=list(WAYS))
async def site(request, template, tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    async with Site.served(template, directory, request.param, **WITH_CHANNELS) as site:
        yield site


class Consumed:
    """A client of the consumer."""

    def __init__(self, websocket):
        self._websocket = websocket

    async def send(self, **content):
        await self._websocket.send(json.dumps(content))

    async def receive(self):
        async with asyncio.timeout(ARRIVES_WITHIN):
            return json.loads(await self._websocket.recv())


@asynccontextmanager
async def consumed(site, browser):
    async with websockets.connect(
        site.url("/ws/chat/lobby/"), additional_headers=browser.headers, compression=None
    ) as websocket:
        yield Consumed(websocket)


async def test_a_group_and_a_room_are_one(site):
    async with (
        site.browser("ada") as ada,
        site.browser("bob") as bob,
        consumed(site, ada) as old,
        talk(site.live, additional_headers=bob.headers) as new,
    ):
        await new.join("chat/lobby")
        await old.send(text="from the consumer")
        assert await old.receive() == {"author": "ada", "text": "from the consumer"}
        said = await new.receive_type("said")
        assert said["room"] == "chat/lobby"
        assert said["data"] == {"id": said["data"]["id"], "author": "ada", "text": "from the consumer"}
        await new.send(type="say", room="chat/lobby", data={"text": "from the hub"})
        assert await old.receive() == {"author": "bob", "text": "from the hub"}
        said_too = await new.receive_type("said")
        assert said_too["data"]["text"] == "from the hub"
        assert said_too["offset"] == said["offset"] + 1  # nothing went round in a circle


async def test_who_comes_later_gets_what_the_consumer_sent(site):
    async with site.browser("ada") as ada, consumed(site, ada) as old:
        await old.send(text="before")
        await old.receive()
        async with talk(site.live, additional_headers=ada.headers) as new:
            start = await new.join("chat/lobby")
            await new.ask(type="$leave", room="chat/lobby")
            await new.join("chat/lobby", since={"epoch": start["epoch"], "offset": start["offset"] - 1})
            assert (await new.receive_type("said"))["data"]["text"] == "before"


async def test_who_is_not_logged_in_is_refused_by_both(site):
    async with site.browser(None) as nobody:
        with pytest.raises(websockets.InvalidStatus):
            async with consumed(site, nobody):
                pass
        async with talk(site.live, welcome=False, additional_headers=nobody.headers) as client:
            assert (await client.receive())["data"]["message"] == "Log in first."


async def test_a_group_and_a_room_are_one_in_a_file_too(template, tmp_path):
    in_file = {"HUBBUB_BROKER": f"sqlite:///{tmp_path}/rooms.db"}
    async with (
        Site.served(template, tmp_path, "hubbub serve", **WITH_CHANNELS, **in_file) as site,
        site.browser("ada") as ada,
        consumed(site, ada) as old,
        talk(site.live, additional_headers=ada.headers) as new,
    ):
        await new.join("chat/lobby")
        await old.send(text="from the consumer")
        assert (await new.receive_type("said"))["data"]["text"] == "from the consumer"
        assert (await old.receive())["text"] == "from the consumer"
        await new.send(type="say", room="chat/lobby", data={"text": "from the hub"})
        assert (await old.receive())["text"] == "from the hub"


async def test_other_processes_meet_on_a_broker_that_they_share(template, tmp_path):
    async with RedisServer() as redis:
        shared = {**WITH_CHANNELS, "HUBBUB_BROKER": redis.url}
        async with (
            Site.served(template, tmp_path, "daphne", **shared) as daphne,
            Site.served(template, tmp_path, "hubbub serve", **shared) as served,
            daphne.browser("ada") as ada,
            served.browser("bob") as bob,
            consumed(daphne, ada) as old,
            talk(served.live, additional_headers=bob.headers) as new,
        ):
            await new.join("chat/lobby")
            await old.send(text="hi")
            assert (await new.receive_type("said"))["data"]["text"] == "hi"
            assert await old.receive() == {"author": "ada", "text": "hi"}
            for command in (SENT_TO_THE_GROUP, PUBLISHED_IN_THE_ROOM):
                finished = await asyncio.to_thread(
                    manage, tmp_path / "db.sqlite3", "shell", "--verbosity", "0", "-c", command, **shared
                )
                assert finished.returncode == 0, finished.stderr
                assert (await new.receive_type("said"))["data"]["author"] == "cron"
                assert (await old.receive())["author"] == "cron"


SENT_TO_THE_GROUP = """
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
said = {"type": "said", "id": 0, "author": "cron", "text": "good morning"}
async_to_sync(get_channel_layer().group_send)("chat_lobby", said)
"""

PUBLISHED_IN_THE_ROOM = """
from chat.live import Said, chat
from hubbub.integrations.django import publish
publish(chat(name="lobby"), Said(id=0, author="cron", text="good morning"))
"""
