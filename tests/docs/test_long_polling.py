"""The how-to for long polling: its commands, one after the other, are answered as it shows."""

import asyncio
import json
import os

import pytest

from conftest import Served
from docs.pages import Shelf, blocks, commands

PAGE = "docs/how-to/long-polling.md"

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def served(shelf: Shelf, serve) -> Served:
    shelf.put_all(PAGE)
    return serve(shelf.module("app").hub)


def shape(value: object) -> object:
    """Return what kind of thing a JSON value is, down to the types of the messages in it."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return value if isinstance(value, int) else type(value)


async def test_the_commands_are_answered_as_they_are_shown(served):
    shown = [json.loads(block.text) for block in blocks(PAGE) if block.language == "json"]
    environment = dict(os.environ)
    answers = []
    for _, command in commands(PAGE):
        if not command.startswith("curl"):
            continue
        process = await asyncio.create_subprocess_shell(
            command.replace("http://localhost:8000", served.http),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, command
        if said:
            answers.append(json.loads(said))
            messages = answers[-1]["messages"]
            if messages[0]["type"] == "$line":
                environment["LINE"] = messages[0]["data"]["line"]
                # Not all of it is shown.
                kept = shown[0]["messages"][1]["data"]
                messages[1]["data"] = {name: messages[1]["data"][name] for name in kept}
    assert len(answers) == len(shown) == 2
    assert shape(answers) == shape(shown)
    types = [[message["type"] for message in answer["messages"]] for answer in answers]
    assert types == [[message["type"] for message in answer["messages"]] for answer in shown]
