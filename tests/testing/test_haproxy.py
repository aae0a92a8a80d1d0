"""The private HAProxy: every connection to the next instance, and none to one that is gone."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

import hubbub
from hubbub.errors import ConfigurationError
from hubbub.testing.processes import NotStarted, Process
from hubbub.testing.servers.haproxy import HAProxy

APPLICATION = """
import os
from hubbub import Connection, Hubbub

hub = Hubbub()

@hub.endpoint("/who")
async def who(connection: Connection) -> None:
    await connection.send(os.environ["WHO"])
    await connection.wait_closed()
"""

EXAMPLE = Path(__file__).parents[2] / "examples/deploy/haproxy.cfg"
OF_ITS_OWN = ("maxconn", "bind", "timeout tunnel", "default-server", "server ")
"""Settings that tests have otherwise: ports, and times that are not worth waiting for."""


@pytest.fixture
async def instances(tmp_path):
    (tmp_path / "who.py").write_text(APPLICATION)
    first, second = (
        Process.serving("who:hub", directory=tmp_path, environment={"WHO": name}, log_level="warning")
        for name in "ab"
    )
    async with first, second:
        yield first, second


async def who(balancer: HAProxy) -> str:
    async with hubbub.connect(balancer.url("/who"), proxy=None) as client:
        async for event in client:
            assert isinstance(event, str)
            return event
    raise AssertionError("nobody answered")


async def test_connections_are_shared_out_in_turn(instances):
    async with HAProxy([server.port for server in instances]) as balancer:
        assert Counter([await who(balancer) for _ in range(6)]) == {"a": 3, "b": 3}


async def test_an_instance_that_was_killed_gets_no_connection_until_it_is_there_again(instances):
    first, second = instances
    async with HAProxy([first.port, second.port]) as balancer:
        await first.kill()
        assert {await who(balancer) for _ in range(6)} == {"b"}
        await first.start()
        async with asyncio.timeout(10):
            while await who(balancer) != "a":
                pass


async def test_it_is_not_ready_before_an_instance_is():
    balancer = HAProxy([1])
    balancer._starts_within = 1.0
    with pytest.raises(NotStarted, match="not ready within 1 seconds"):
        async with balancer:
            pass


def test_it_says_which_package_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("hubbub.testing.servers.PLACES", "/nowhere")
    with pytest.raises(ConfigurationError, match="apt-get install haproxy"):
        HAProxy([1])


def test_it_is_set_up_as_the_example_says():
    example = {line.strip() for line in EXAMPLE.read_text().splitlines()}
    lines = [line.strip() for line in HAProxy([1, 2]).configuration.splitlines()]
    own = [line for line in lines if not line.startswith(("#", *OF_ITS_OWN))]
    assert [line for line in own if line not in example] == []
