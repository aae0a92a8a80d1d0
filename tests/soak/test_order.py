"""What can be ordered of a soak, and what can't."""

import pytest

from hubbub.errors import ConfigurationError
from hubbub.soak.engine import link, through
from hubbub.soak.order import Order, Outage
from hubbub.testing.faults import FaultProxy


@pytest.mark.parametrize(
    ("text", "outage"),
    [
        ("30", Outage(30, "stop")),
        ("5s:kill", Outage(5, "kill")),
        ("500ms:pause", Outage(0.5, "pause")),
        ("1:stop", Outage(1)),
    ],
)
def test_an_outage_is_a_time_and_how_the_broker_goes(text, outage):
    assert Outage.parse(text) == outage


@pytest.mark.parametrize(("text", "told"), [("soon", "no time"), ("5:explode", "stop, kill or pause")])
def test_an_outage_that_can_not_be_is_told(text, told):
    with pytest.raises(ValueError, match=told):
        Outage.parse(text)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"instances": 0}, "an instance at least"),
        ({"broker_down": (Outage(5),)}, "redis, rabbitmq, nats"),
        ({"broker_down": (Outage(5),), "broker": "redis://example.com:6379"}, "redis, rabbitmq, nats"),
        ({"partition": (5.0,)}, "own memory or a file"),
        ({"broker_cut_every": 1.0, "broker": "sqlite:///rooms.db"}, "own memory or a file"),
    ],
)
def test_trouble_that_can_not_be_made_is_told(wrong, told):
    with pytest.raises(ValueError, match=told):
        Order(**wrong)


def test_it_is_known_what_a_lost_line_may_come_from():
    assert Order().troubles_lines
    quiet = {"fault_every": 0, "broker": "redis"}
    assert not Order(partition=(1.0,), **quiet).troubles_lines
    assert Order(partition=(1.0,), **quiet).troubles_broker
    assert not Order(rolling=True, **quiet).troubles_broker


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://a:1",
        "redis+sentinel://a:1/mymaster",
        "redis://a:1,b:2",
        "nats://a:1,b",
        "redis:///0",
    ],
)
def test_of_several_servers_none_can_be_cut_off(url):
    with pytest.raises(ConfigurationError, match="one server"):
        link(url)


async def test_a_broker_by_way_of_a_proxy_is_the_same_but_for_its_place():
    async with FaultProxy("127.0.0.1", 1) as proxy:
        before = "redis://me:secret@localhost:6379/3?prefix=chat"
        assert through(proxy, before) == f"redis://me:secret@127.0.0.1:{proxy.port}/3?prefix=chat"
