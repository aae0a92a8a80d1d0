"""``hubbub soak`` as its users run it."""

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from typer.testing import CliRunner, Result

from hubbub.cli import app
from soak.liars import let_them_be_found

pytestmark = pytest.mark.timeout(120)

SMALL = ["--clients", "6", "--rooms", "2", "--seed", "4"]
QUIET = [*SMALL, "--fault-every", "0"]


def soak(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["soak", *arguments], catch_exceptions=False)


def test_the_figures_are_shown():
    result = soak("--messages", "100", "--fault", "cut", "--fault", "reset", *SMALL)
    assert result.exit_code == 0, result.output
    for row in ("published", "acknowledged", "received", "lost", "doubled", "out of order", "gaps told"):
        assert row in result.stdout
    assert "Nothing was lost, doubled or out of order. Seed 4." in result.stdout
    assert result.stderr == ""  # no progress where nobody looks


def test_json_goes_to_the_standard_output_and_nothing_else_does():
    result = soak("--seconds", "0.5", "--rate", "50", "--exclude", "--json", "-", *QUIET)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["sound"] is True
    assert figures["seed"] == 4
    assert 10 <= figures["published"] == figures["acknowledged"] <= 50
    assert figures["receipts"] == 2 * figures["published"]
    assert {figures[name] for name in ("lost", "doubled", "reordered", "stray", "returned", "hung")} == {0}


def test_json_goes_to_a_file_beside_the_table(tmp_path):
    path = tmp_path / "soak.json"
    result = soak("--messages", "50", "--lose-acknowledgements", "2", "--json", str(path), *QUIET)
    assert result.exit_code == 0, result.output
    assert "acknowledgements lost" in result.stdout
    figures = json.loads(path.read_text())
    assert figures["lost_acknowledgements"] == 2
    assert figures["recovery_seconds"]["p50"] > 0


def test_trouble_of_many_instances_is_shown():
    result = soak(
        *["--instances", "2", "--broker", "redis", "--seconds", "2", "--rate", "100", "--rolling"],
        *["--broker-down", "0.5:kill", "--broker-cut-every", "0.5", "--partition", "0.5", *QUIET],
    )
    assert result.exit_code == 0, result.output
    for row in ("put off", "server restarted", "broker away", "connections cut", "server parted from broker"):
        assert row in result.stdout
    assert "of them without the broker" in result.stdout


def test_a_breach_is_told_with_its_place_and_exit_status_1(monkeypatch):
    let_them_be_found(monkeypatch)
    result = soak("--app", "soak.liars:losing", "--messages", "100", "--patience", "1", *QUIET)
    assert result.exit_code == 1
    assert "was not shown message" in result.stdout
    assert "The promise was broken. Seed 4." in result.stdout


def test_a_storm_shows_its_figures_with_jitter_and_without_beside_each_other():
    result = soak("--storm", "--clients", "10", "--rooms", "2")
    assert result.exit_code == 0, result.output
    for word in ("with jitter", "without jitter", "all caught up after", "busiest second"):
        assert word in result.stdout


def test_a_storm_may_be_raised_one_way_only():
    result = soak("--storm", "--clients", "10", "--rooms", "2", "--no-jitter", "--json", "-")
    assert result.exit_code == 0, result.output
    (figures,) = json.loads(result.stdout)
    assert (figures["jitter"], figures["clients"], figures["sound"]) == (False, 10, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fault", "thunder"], "is no fault"),
        (["--rooms", "2", "--rooms-per-client", "3"], "1 to 2"),
        (["--broker", "nowhere://"], "no broker for nowhere://"),
        (["--clients", "100000000"], "ulimit"),
        (["--storm", "--clients", "100000000"], "ulimit"),
        (["--storm", "--instances", "3"], "one server"),
        (["--instances", "3"], "can't share memory://"),
        (["--broker-down", "5"], "redis, rabbitmq, nats"),
        (["--broker", "redis", "--broker-down", "5:explode"], "stop, kill or pause"),
        (["--partition", "5"], "own memory or a file"),
        (["--broker", "redis+cluster://a:1", "--partition", "5"], "one server"),
    ],
)
def test_what_can_not_be_run_is_told_in_words(arguments, told):
    result = soak(*arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", "").split())


def test_ctrl_c_ends_it_early_with_a_judgement():
    command = [sys.executable, "-m", "hubbub", "soak", "--json", "-", *QUIET]
    terminal, its = pty.openpty()
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, text=True) as process,
        open(terminal, "rb", buffering=0) as shown,
    ):
        os.close(its)
        seen = b""
        while b"publishing" not in seen:
            seen += shown.read(1024)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the other end of the terminal is closed
            while shown.read(1024):
                pass
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    figures = json.loads(stdout)
    assert (figures["sound"], figures["interrupted"]) == (True, True)
    assert figures["seconds"] < 30
