import os
import re

import pytest
from typer.testing import CliRunner

from hubbub import server
from hubbub.cli import app
from hubbub.settings import describe


@pytest.fixture
def served(monkeypatch):
    """What `hubbub serve` would serve, and the settings in its environment."""
    seen: dict[str, object] = {}

    def note(target: str) -> None:
        seen["target"] = target
        seen["settings"] = server.Settings.load()

    monkeypatch.setattr(server, "serve", note)
    for setting in describe():
        monkeypatch.setenv(setting.variable, "")
        monkeypatch.delenv(setting.variable)
    yield seen
    for setting in describe():
        os.environ.pop(setting.variable, None)


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_every_setting_is_an_option_with_its_variable(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("NO_COLOR", "1")
    result = CliRunner().invoke(app, ["serve", "--help"])
    assert result.exit_code == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    for setting in describe():
        assert setting.option in shown
        assert setting.variable in shown


def test_options_become_settings(served):
    run(
        "serve",
        "chat:hub",
        "--port",
        "9000",
        "--reload",
        "--no-native",
        "--idle-timeout",
        "1.5",
        "--log-format",
        "json",
    )
    assert served["target"] == "chat:hub"
    settings = served["settings"]
    assert (settings.port, settings.reload, settings.native) == (9000, True, False)
    assert (settings.idle_timeout, settings.log_format) == (1.5, "json")


def test_an_option_wins_over_the_environment(served, monkeypatch):
    monkeypatch.setenv("HUBBUB_PORT", "1")
    monkeypatch.setenv("HUBBUB_WORKERS", "3")
    run("serve", "chat:hub", "--port", "2")
    assert (served["settings"].port, served["settings"].workers) == (2, 3)


def test_what_is_not_given_is_left_alone(served):
    run("serve", "chat:hub")
    assert not [setting.variable for setting in describe() if setting.variable in os.environ]


def test_a_choice_that_there_is_not_is_refused():
    result = CliRunner().invoke(app, ["serve", "chat:hub", "--log-format", "morse"])
    assert result.exit_code == 2
    assert "morse" in result.output


def test_demo_serves_the_chat(served):
    run("demo", "--port", "8001")
    assert served["target"] == "hubbub.demo:app"
    assert served["settings"].port == 8001
