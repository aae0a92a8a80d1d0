"""The page on soaks: its commands run, in small, and find nothing."""

import json
import os
import shlex

import pytest
from typer.testing import CliRunner

from docs.pages import commands
from hubbub.cli import app

PAGE = "docs/how-to/soak.md"
SOAKS = [command for _, command in commands(PAGE)]
FEW = {
    "--kills": "1",
    "--lose-acknowledgements": "2",
    "--messages": "60",
    "--seconds": "0.5",
    "--rate": "200",
    "--kill-every": "1",
    "--broker-cut-every": "0.2",
    "--instances": "2",
}
SHORT = {"--broker-down": "0.5", "--partition": "0.5"}
"""Of what may be repeated, how long each is."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder(shelf, monkeypatch):
    """The folder that a reader of the page is in."""
    shelf.put_all(PAGE)
    monkeypatch.chdir(shelf.directory)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(shelf.directory), os.environ.get("PYTHONPATH", "")])
    )
    return shelf


@pytest.mark.parametrize("command", SOAKS)
def test_a_soak_of_the_page_finds_nothing(folder, monkeypatch, command):
    arguments = shlex.split(command)[1:]
    for place, option in enumerate(arguments):
        if option in SHORT:
            how = arguments[place + 1].partition(":")[2]
            arguments[place + 1] = ":".join(filter(None, [SHORT[option], how]))
    few = ["--clients", "8", "--rooms", "4", "--seconds", "0.5"]
    monkeypatch.setenv("HUBBUB_DRAIN", "1")
    few += [word for option, value in FEW.items() if option in arguments for word in (option, value)]
    if "--storm" not in arguments:
        few += ["--fault", "reset", "--fault", "cut"]
    result = CliRunner().invoke(app, [*arguments, *few], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if arguments[-1] == "-":
        assert json.loads(result.stdout)["sound"] is True


async def test_the_nightly_soak_of_the_page_finds_nothing(folder):
    await folder.module("nightly").nightly(seconds=2.0, clients=8)
