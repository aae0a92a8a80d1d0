import json
import sys

import pytest
from typer.testing import CliRunner

from hubbub.cli import app
from hubbub.errors import ConfigurationError

APPLICATION = """
from typing import Annotated
from hubbub import Hubbub, Message, Meta, Room
from hubbub.brokers.memory import MemoryBroker
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount

hub = Hubbub(path="/live")
chat = hub.room("chat/{name}", history=200, history_age=7200, presence=True, bans=True)
plain = hub.room("plain", slow="conflate")
short = hub.room("short", history=3, history_age=30)

class Say(Message):
    text: Annotated[str, Meta(min_length=1, max_length=2000)]
    mood: str | None = None

class Move(BaseModel):
    x: int

@chat.on_message
async def say(room: Room, message: Say) -> None: ...

@hub.on_message
async def move(message: Move) -> None: ...

@hub.endpoint("/echo/{who}")
async def echo(websocket, who: str) -> None: ...

host = Starlette(routes=[Mount("/deep", hub)])
bare = Starlette()
quiet = Hubbub()
given = Hubbub(broker=MemoryBroker())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "shown.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("COLUMNS", "200")
    yield
    sys.modules.pop("shown", None)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["routes", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_shows_paths_rooms_and_messages_with_their_fields():
    shown = run("shown:hub")
    for part in (
        "/live",
        "/echo/{who}",
        "echo() at",
        "chat/{name}",
        "200 for 2 h",
        "3 for 30 s",
        "plain",
        "disconnect",
        "conflate",
        "text: string minLength=1 maxLength=2000",
        "mood?: string|null",
        "x: integer",
        "say() at",
    ):
        assert part in shown


def test_it_finds_the_hub_that_an_application_has_mounted():
    assert "chat/{name}" in run("shown:host")


def test_json_has_the_whole_schemas():
    described = json.loads(run("shown:hub", "--json"))
    assert described["path"] == "/live"
    rooms = {rooms["pattern"]: rooms for rooms in described["rooms"]}
    assert rooms["chat/{name}"]["history"] == 200
    assert rooms["chat/{name}"]["presence"] is True
    assert (rooms["chat/{name}"]["slow"], rooms["plain"]["slow"]) == ("disconnect", "conflate")
    (say,) = rooms["chat/{name}"]["messages"]
    assert say["type"] == "say"
    assert "$defs" in say["schema"]
    assert described["messages"][0]["type"] == "move"
    assert described["endpoints"][0]["path"] == "/echo/{who}"


def test_the_broker_is_shown_with_what_it_guarantees_and_without_its_password(monkeypatch):
    monkeypatch.setenv("HUBBUB_BROKER", "redis://:hunter2@127.0.0.1:1/0")  # nothing listens there
    shown = run("shown:hub")
    row = next(line for line in shown.splitlines() if "redis://" in line)
    assert row.count("yes") == 2
    described = json.loads(run("shown:hub", "--json"))
    assert described["broker"] == {"name": "redis://", "shared": True, "durable": True}
    assert "hunter2" not in shown + json.dumps(described)


def test_a_broker_object_is_shown_by_its_class():
    assert json.loads(run("shown:given", "--json"))["broker"] == {
        "name": "MemoryBroker",
        "shared": False,
        "durable": False,
    }


def test_health_checks_are_shown():
    assert json.loads(run("shown:hub", "--json"))["http"] == ["/healthz", "/readyz"]


def test_publishing_over_http_is_shown_where_there_are_api_keys(monkeypatch):
    monkeypatch.setenv("HUBBUB_API_KEYS", "k" * 32)
    assert "/api/publish/batch" in run("shown:hub")


def test_what_rooms_offer_is_shown():
    rooms = {rooms["pattern"]: rooms for rooms in json.loads(run("shown:hub", "--json"))["rooms"]}
    assert rooms["chat/{name}"]["bans"] is True
    assert rooms["plain"]["bans"] is False


def test_a_hub_with_nothing_declared_is_shown_too():
    assert "rooms and messages" in run("shown:quiet")


def test_an_application_without_a_hub_is_told_in_a_sentence():
    with pytest.raises(ConfigurationError, match="shown:bare has no Hubbub in it"):
        run("shown:bare")
