"""What Python code of a project sees of the hub: run in a child process, in which Django is set up."""

import asyncio
import os
import subprocess
import sys

import pytest

from hubbub.testing.processes import Process
from integrations.django_project import EXAMPLE
from integrations.waiting import until

BEFORE = """
import asyncio, sys, threading, time
import django
django.setup()
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection as database, transaction
from chat.live import Said, chat
from hubbub import ConfigurationError
from hubbub.integrations.django import *
from hubbub.integrations.django import hub


async def kept():
    return [message.data["text"] for message in await chat(name="lobby").history()]

def said(text):
    return Said(id=0, author="test", text=text)

async def main():
"""


def run(template, body: str, **environment: str) -> None:
    """Run the body of an asynchronous function."""
    code = BEFORE + "\n".join(f"    {line}" for line in body.splitlines()) + "\n\nasyncio.run(main())\n"
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=EXAMPLE,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "EXAMPLE_DATABASE": str(template),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert finished.returncode == 0, finished.stderr


def test_publishing_reaches_the_room_from_any_thread_and_loop(template):
    run(
        template,
        """
async with hub.lifespan():
    await apublish(chat(name="lobby"), said("awaited"))
    await asyncio.to_thread(publish, chat(name="lobby"), said("from a thread"))
    await asyncio.to_thread(lambda: asyncio.run(apublish(chat(name="lobby"), said("from another loop"))))
    await asyncio.to_thread(publish, hub.user("1"), said("to a user"))
    assert await kept() == ["awaited", "from a thread", "from another loop"]
    assert [message.data["text"] for message in await hub.user("1").history()] == ["to a user"]
""",
    )


def test_what_waits_on_the_hub_s_own_loop_is_told_to_await(template):
    run(
        template,
        """
async with hub.lifespan():
    with pytest.raises(RuntimeError, match="await apublish"):
        publish(chat(name="lobby"), said("never"))
    assert await kept() == []
""",
    )


def test_who_waits_as_the_hub_stops_is_told(template):
    run(
        template,
        """
from hubbub import Room, Unavailable
begun = threading.Event()

async def never(*_, **__):
    begun.set()
    await asyncio.Event().wait()

async def serve():
    async with hub.lifespan():
        await asyncio.to_thread(begun.wait)

Room.send = never
server = threading.Thread(target=lambda: asyncio.run(serve()))
server.start()
while hub.loop is None:
    await asyncio.sleep(0.01)
with pytest.raises(Unavailable, match="stopped meanwhile"):
    await asyncio.to_thread(publish, chat(name="lobby"), said("too late"), timeout=10)
server.join()
""",
    )


def test_on_commit_is_at_the_commit(template):
    run(
        template,
        """
def both():
    with transaction.atomic():
        publish_on_commit(chat(name="lobby"), said("committed"))
        assert async_to_sync(kept)() == []
    publish_on_commit(chat(name="lobby"), said("at once"))
    try:
        with transaction.atomic():
            publish_on_commit(chat(name="lobby"), said("rolled back"))
            raise ValueError
    except ValueError:
        pass
    database.close()

async with hub.lifespan():
    await asyncio.to_thread(both)
    assert await kept() == ["committed", "at once"]
""",
    )


def test_where_no_hub_runs_and_the_broker_is_in_memory_publishing_says_so(template):
    run(
        template,
        """
with pytest.raises(ConfigurationError, match="in the process that serves them"):
    publish(chat(name="lobby"), said("to nobody"))
with pytest.raises(ConfigurationError, match="in the process that serves them"):
    await apublish(chat(name="lobby"), said("to nobody"))
with pytest.raises(ConfigurationError, match="leave exclude out"):
    publish(chat(name="lobby"), said("to nobody"), exclude=object())
""",
    )


def test_a_hook_of_ones_own_may_ask_for_the_request_and_the_user(template):
    run(
        template,
        """
from hubbub import Connection, Denied

@hub.authenticate
def who(connection: Connection) -> str:
    request = request_of(connection)
    assert request.META["HTTP_X_TEST"] == "yes"
    assert request.path == "/live/"
    assert request.GET["token"] == "ada"
    return request.GET["token"]

@hub.on_message
def whoami(connection: Connection, message: Said) -> str:
    return type(user_of(connection)).__name__

from starlette.applications import Starlette
import json, websockets
from hubbub.testing.serving import serving
async with serving(get_asgi_application()) as served:
    url = served.url + "/live/?token=ada"
    async with websockets.connect(url, additional_headers={"X-Test": "yes"}) as websocket:
        assert json.loads(await websocket.recv())["type"] == "$welcome"
        said = {"id": 1, "author": "a", "text": "t"}
        await websocket.send(json.dumps({"type": "said", "id": 1, "data": said}))
        answer = json.loads(await websocket.recv())
        assert answer["type"] == "$error", answer  # the token is no backend's
assert not hub.knows_users_by_session
""",
    )


def test_names_that_are_not_there_are_told(template):
    run(
        template,
        """
import hubbub.integrations.django as package
with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    package.nothing
assert package.hub is hub
""",
    )


def test_a_child_made_by_fork_does_not_wait_for_the_hub_of_its_parent(template):
    run(
        template,
        """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork() with threads, in later versions of Python
async with hub.lifespan():
    def fork():
        if not (child := os.fork()):
            try:
                publish(chat(name="lobby"), said("from a child"), timeout=1)
            except ConfigurationError:
                os._exit(7)
            os._exit(1)
        return child
    child = await asyncio.to_thread(fork)
    async with asyncio.timeout(10):
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            await asyncio.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 7
    await apublish(chat(name="lobby"), said("from the parent"))
    assert await kept() == ["from the parent"]
""",
    )


def test_consumers_may_be_tried_each_on_an_event_loop_of_its_own(template):
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", CONSUMERS],
        cwd=EXAMPLE,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "mysite.settings_channels",
            "EXAMPLE_DATABASE": str(template),
        },
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert finished.returncode == 0, finished.stderr


CONSUMERS = """
import asyncio
import django
django.setup()
import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from chat.consumers import ChatConsumer
from chat.live import Said, chat
from django.contrib.auth.models import User
from hubbub import ConfigurationError
from hubbub.integrations.django import hub, publish

async def consumer(scope, receive, send):
    scope |= {"user": User(pk=1), "url_route": {"kwargs": {"name": "lobby"}}}
    await ChatConsumer.as_asgi()(scope, receive, send)

async def test(text):
    client = WebsocketCommunicator(consumer, "/")
    assert (await client.connect())[0]
    said = {"type": "said", "id": 1, "author": "x", "text": text}
    await get_channel_layer().group_send("chat_lobby", said)
    assert (await client.receive_json_from(5))["text"] == text
    await asyncio.to_thread(publish, chat(name="lobby"), Said(id=2, author="y", text=text + "!"))
    assert (await client.receive_json_from(5))["text"] == text + "!"
    await client.disconnect()

for text in ("one", "two", "three"):
    asyncio.run(test(text))
    assert hub.loop is None
    with pytest.raises(ConfigurationError, match="in the process that serves them"):
        publish(chat(name="lobby"), Said(id=3, author="y", text="to nobody"))
"""


LOGIN = """
from django.conf import settings
from django.contrib.auth import get_user_model, user_logged_out
from django.test import Client, RequestFactory, override_settings
from hubbub.integrations.django import login
from starlette.requests import HTTPConnection

class Opened:
    token = user = None
    def __init__(self, cookie, **scope):
        self.state, headers = {}, [(b"cookie", f"sessionid={cookie}".encode())]
        self.scope = {"type": "websocket", "path": "/live/", "query_string": b"", "headers": headers, **scope}
        self.request = HTTPConnection(self.scope)

def logged_in(name):
    client = Client()
    client.force_login(get_user_model().objects.get(username=name))
    return client.cookies["sessionid"].value
"""


def test_opening_a_connection_gives_no_session_another_key(template):
    run(
        template,
        LOGIN
        + """
def after_a_new_secret_key():
    cookie = logged_in("ada")
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert login.log_in(Opened(cookie)) == "1"
        assert login.log_in(Opened(cookie)) == "1"  # as it still is the browser's
    with override_settings(SECRET_KEY="new"):
        assert login.log_in(Opened(cookie)) is None
    database.close()

await asyncio.to_thread(after_a_new_secret_key)
""",
    )


def test_who_is_known_by_other_means_than_the_session_does_not_hang_on_it(template):
    run(
        template,
        LOGIN
        + """
def by_a_middleware():
    from types import SimpleNamespace
    bob = SimpleNamespace(pk=2, is_authenticated=True)  # as of a token alone
    for cookie in ("made-up", logged_in("ada")):
        connection = Opened(cookie, user=bob)
        assert login.log_in(connection) == "2"
        assert login.LOGIN not in connection.state
    cookie = logged_in("bob")
    connection = Opened(cookie, user=bob)
    assert login.log_in(connection) == "2"
    assert connection.state[login.LOGIN] == login.known_by(cookie)
    database.close()

await asyncio.to_thread(by_a_middleware)
""",
    )


def test_a_logout_without_a_session_is_one(template):
    run(
        template,
        LOGIN
        + """
ada = get_user_model()(pk=1)
async with hub.lifespan():
    asked = []
    async def disconnect(**of):
        asked.append(of)
    hub.disconnect = disconnect
    user_logged_out.send(type(ada), request=RequestFactory().post("/logout/"), user=ada)
    async with asyncio.timeout(5):
        while not asked:
            await asyncio.sleep(0)
    assert asked == [{"user": "1", "reason": "You logged out.", "login": None}]
""",
    )


def test_a_session_that_can_not_be_looked_at_keeps_no_other_from_it(template):
    run(
        template,
        LOGIN
        + """
from hubbub.integrations.django import upkeep
looked, gone = [], []

class Held(Opened):
    closing, user = False, "1"
    def __init__(self, login):
        self.state = {"login": login}

class Two:
    session_check = 0.02
    def open_connections(self):
        return [Held("broken"), Held("over")]
    async def disconnect(self, *, user, login):
        gone.append(login)

def look(connection):
    looked.append(connection.state["login"])
    if connection.state["login"] == "broken":
        raise OSError("its directory does not answer")
    return False

upkeep._ask = look
task = upkeep.Upkeep(Two())
task.start()
async with asyncio.timeout(10):
    while not gone:
        await asyncio.sleep(0.01)
await task.stop()
assert looked[0] == "broken"
""",
    )


@pytest.mark.timeout(120)
async def test_the_command_serves_the_code_as_it_is_now(template, tmp_path):
    project = tmp_path / "project"
    await asyncio.to_thread(subprocess.run, ["cp", "-r", str(EXAMPLE), str(project)], check=True)
    async with Process(
        [sys.executable, "manage.py", "hubbub", "127.0.0.1:{port}"],
        ready="/live/readyz",
        environment={"EXAMPLE_DATABASE": str(template)},
        directory=project,
    ) as process:
        live = project / "chat" / "live.py"
        live.write_text(live.read_text() + '\nprint("read anew", flush=True)\n')
        await until(lambda: "read anew" in process.log)
