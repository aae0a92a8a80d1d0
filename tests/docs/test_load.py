"""The page on load: its application can be loaded as it says."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from docs.pages import commands
from hubbub.cli import app

PAGE = "docs/how-to/load.md"
LOADS = [command for _, command in commands(PAGE) if command.startswith("hubbub bench")]


@pytest.mark.parametrize("command", LOADS)
def test_the_application_of_the_page_is_loaded_as_it_says(shelf, serve, monkeypatch, command):
    shelf.put_all(PAGE)
    # As the page's `hubbub serve` does it.
    monkeypatch.setenv("HUBBUB_MAX_MESSAGE_RATE", "1000000")
    monkeypatch.setenv("HUBBUB_MAX_MESSAGE_BURST", "1000000")
    url = serve(shelf.module("app").hub).url
    few = ["--seconds", "0.2", "--connections", "5", "--json"]
    arguments = [url if word == "ws://localhost:8000" else word for word in shlex.split(command)[1:]]
    result = CliRunner().invoke(app, [*arguments, *few], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["protocol"], found["connections"], found["errors"]) == ("hubbub", 5, {})
    fields = {
        "rate",
        "unit",
        "count",
        "seconds",
        "asked_seconds",
        "ended_after",
        "latency_ms",
        "connections",
        "errors",
        "generator_busy",
        "protocol",
    }
    assert fields <= found.keys()
