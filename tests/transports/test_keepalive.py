"""The keepalive of connections that have no heartbeat of their own, step by step."""

import asyncio

import pytest
from uvicorn import Config

from hubbub.transports.keepalive import Keepalive, keepalive_of

pytestmark = pytest.mark.anyio

INTERVAL, TIMEOUT = 20.0, 30.0


class Line:
    def __init__(self) -> None:
        self.signs = 0
        self.listening = True
        self.seen: list[str] = []

    def listens(self) -> bool:
        return self.listening

    def ping(self) -> None:
        self.seen.append("ping")

    def silent(self) -> None:
        self.seen.append("silent")


class Watched:
    """A keepalive with two connections, and its time."""

    def __init__(self) -> None:
        self.keepalive = Keepalive(INTERVAL, TIMEOUT)
        self.one, self.other = Line(), Line()
        self.keepalive.watch(self.one)
        self.keepalive.watch(self.other)
        self.began = asyncio.get_running_loop().time()

    def at(self, seconds: float) -> list[str]:
        """Look after so many seconds; return what the first connection has seen."""
        self.keepalive.check(self.began + seconds)
        return self.one.seen


@pytest.fixture
async def watched():
    watched = Watched()
    yield watched
    watched.keepalive.forget(watched.one)
    watched.keepalive.forget(watched.other)


async def test_silence_is_answered_with_a_ping_and_silence_after_it_is_told_once(watched):
    assert watched.at(INTERVAL - 1) == []
    assert watched.at(INTERVAL + 1) == ["ping"]
    assert watched.at(INTERVAL + TIMEOUT) == ["ping"]
    assert watched.at(INTERVAL + TIMEOUT + 2) == ["ping", "silent"]
    assert watched.at(1000) == ["ping", "silent"]


async def test_a_sign_of_life_puts_the_ping_off(watched):
    watched.one.signs += 1
    assert watched.at(INTERVAL - 1) == []
    assert watched.at(INTERVAL + 1) == []
    assert watched.other.seen == ["ping"]
    assert watched.at(2 * INTERVAL) == ["ping"]


async def test_an_answer_to_the_ping_begins_it_anew(watched):
    assert watched.at(INTERVAL + 1) == ["ping"]
    watched.one.signs += 1
    assert watched.at(INTERVAL + TIMEOUT + 2) == ["ping"]
    assert watched.at(2 * INTERVAL + TIMEOUT + 3) == ["ping", "ping"]


async def test_who_is_not_read_from_is_not_held_to_answer(watched):
    assert watched.at(INTERVAL + 1) == ["ping"]
    watched.one.listening = False
    assert watched.at(1000) == ["ping"]
    watched.one.listening = True
    assert watched.at(1000 + INTERVAL - 1) == ["ping"]
    assert watched.at(1000 + INTERVAL) == ["ping", "ping"]


async def test_who_is_forgotten_is_left_alone(watched):
    watched.keepalive.forget(watched.one)
    watched.keepalive.forget(watched.one)
    assert watched.at(1000) == []
    assert watched.other.seen == ["ping"]


async def test_there_is_one_for_each_server_and_none_where_no_pings_are_to_be_sent():
    # By default it sets logging up for the whole process.
    one, other = Config("app:app", log_config=None), Config("app:app", log_config=None)
    assert keepalive_of(one) is keepalive_of(one)
    assert keepalive_of(one) is not keepalive_of(other)
    assert keepalive_of(Config("app:app", log_config=None, ws_ping_interval=None)) is None
