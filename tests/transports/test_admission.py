"""The counts, the deadlines and the log of refusals, without a socket."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from hubbub import Settings
from hubbub.observe.log import logger
from hubbub.transports import admission
from hubbub.transports.admission import (
    CROWDED,
    FULL,
    TOO_MANY,
    Deadlines,
    Places,
    Proxies,
    Refusals,
    network_of,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:DB8:0000:0001:0::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unknown", "unknown", True),
        ("unknown", "192.0.2.1", False),
        ("2001:db8:no:address", "2001:db8::", False),
        ("\x00::1", "::1", False),
    ],
)
def test_an_address_counts_by_itself_and_that_of_ipv6_by_its_64_bit_network(address, other, same):
    assert (network_of(address) == network_of(other)) is same


def test_what_a_proxy_calls_an_address_does_not_fill_the_memory():
    assert len(network_of("x" * 30_000)) == len(network_of(":" * 30_000)) == 64


def test_places_are_limited_in_all_and_for_each_address_and_come_back():
    places = Places(limit=4, limit_per_address=2)
    assert [places.take(n, "192.0.2.1") for n in range(3)] == [None, None, TOO_MANY]
    assert places.take(3, "192.0.2.2") is None
    assert places.take(4, None) is None
    assert places.take(5, "192.0.2.3") is FULL
    places.give_back(0)
    places.give_back(0)
    assert places.counted() == {"192.0.2.1": 1, "192.0.2.2": 1}
    assert places.take(6, "192.0.2.1") is None


def test_nothing_is_kept_of_an_address_that_has_nobody_here():
    places = Places(limit=10_000, limit_per_address=5)
    for n in range(5000):
        places.take(n, f"2001:db8:{n:x}::1")
    assert len(places) == len(places.counted()) == 5000
    for n in range(5000):
        places.give_back(n)
    assert len(places) == 0
    assert places.counted() == {}


def test_a_place_that_is_passed_on_belongs_to_the_heir():
    places = Places(limit=1, limit_per_address=1)
    places.take("socket", "192.0.2.1")
    places.pass_on("socket", "websocket")
    places.give_back("socket")
    assert places.counted() == {"192.0.2.1": 1}
    places.give_back("websocket")
    assert places.counted() == {}
    places.pass_on("nobody", "heir")
    assert len(places) == 0


@pytest.mark.parametrize(
    ("trusted", "believed", "peer", "counted"),
    [
        ("127.0.0.1", True, "127.0.0.1", None),
        ("127.0.0.1", True, "192.0.2.1", "192.0.2.1"),
        ("10.0.0.0/8", True, "10.1.2.3", None),
        ("127.0.0.1", False, "127.0.0.1", "127.0.0.1"),
        ("*", True, "192.0.2.1", None),
    ],
)
def test_a_trusted_proxy_does_not_count(trusted, believed, peer, counted):
    proxies = Proxies(Settings(forwarded_allow_ips=trusted, proxy_headers=believed))
    assert proxies.counted_peer((peer, 1)) == counted


@pytest.mark.parametrize(
    ("trusted", "client", "counted"),
    [
        ("127.0.0.1", ("192.0.2.1", 0), "192.0.2.1"),
        ("127.0.0.1", ("127.0.0.1", 5), None),
        ("*", ("192.0.2.1", 0), "192.0.2.1"),
        ("127.0.0.1", None, None),
    ],
)
def test_a_client_counts_as_its_proxy_says_who_it_is(trusted, client, counted):
    proxies = Proxies(Settings(forwarded_allow_ips=trusted))
    assert proxies.counted_client({"client": client}) == counted


def test_a_peer_on_a_unix_domain_socket_has_no_address():
    assert Proxies(Settings()).counted_peer(None) is None


class Silent:
    def __init__(self) -> None:
        self.ended: str | None = None

    def expire(self, crowded: bool) -> None:
        self.ended = "crowded" if crowded else "late"


def test_only_those_are_let_go_whose_time_is_over():
    deadlines = Deadlines(timeout=10)
    early, late = Silent(), Silent()
    deadlines.add(early, 90.0)
    deadlines.add(late, 91.0)
    deadlines.add(early, 99.0)
    deadlines.expire(100.5)
    assert (early.ended, late.ended) == ("late", None)
    assert list(deadlines.waiting) == [late]
    deadlines.expire(101.0)
    assert late.ended == "late"
    assert not deadlines.waiting


def test_one_that_got_on_is_not_ended():
    deadlines = Deadlines(timeout=10)
    one = Silent()
    deadlines.add(one, 0.0)
    deadlines.forget(one)
    deadlines.expire(100.0)
    assert one.ended is None


def test_where_too_many_wait_the_one_that_has_waited_longest_goes():
    deadlines = Deadlines(timeout=10, limit=2)
    first, second, third = Silent(), Silent(), Silent()
    for n, one in enumerate((first, second, third)):
        deadlines.add(one, float(n))
    assert (first.ended, second.ended, third.ended) == ("crowded", None, None)
    assert list(deadlines.waiting) == [second, third]


def test_everybody_has_a_moment_to_get_on_however_many_come_at_once():
    deadlines = Deadlines(timeout=10, limit=2, grace=1)
    crowd = [Silent() for _ in range(50)]
    for one in crowd:
        deadlines.add(one, 100.0)
    assert not any(one.ended for one in crowd)
    for one in crowd[:30]:
        deadlines.forget(one)
    deadlines.add(Silent(), 100.5)
    assert not any(one.ended for one in crowd)
    deadlines.add(Silent(), 101.0)
    assert [one.ended for one in crowd] == [None] * 30 + ["crowded"] * 20
    assert len(deadlines.waiting) == 2


def test_one_that_ends_another_while_they_are_looked_at_is_no_trouble():
    deadlines = Deadlines(timeout=1)
    other = Silent()

    class Jealous(Silent):
        def expire(self, crowded: bool) -> None:
            deadlines.forget(other)

    deadlines.add(Jealous(), 0.0)
    deadlines.add(other, 0.0)
    deadlines.expire(2.0)
    assert other.ended is None


class Troubled(Silent):
    def expire(self, crowded: bool) -> None:
        super().expire(crowded)
        raise ZeroDivisionError("on purpose")


def test_trouble_with_one_that_is_late_is_logged_and_the_others_are_ended(caplog):
    deadlines = Deadlines(timeout=1)
    troubled, other = Troubled(), Silent()
    deadlines.add(troubled, 0.0)
    deadlines.add(other, 0.0)
    deadlines.expire(2.0)
    assert (troubled.ended, other.ended) == ("late", "late")
    assert not deadlines.waiting
    assert "on purpose" in caplog.text


def test_trouble_with_one_that_is_crowded_out_is_logged_and_not_the_next_ones(caplog):
    deadlines = Deadlines(timeout=10, limit=1)
    troubled, next_one = Troubled(), Silent()
    deadlines.add(troubled, 0.0)
    deadlines.add(next_one, 1.0)
    assert troubled.ended == "crowded"
    assert list(deadlines.waiting) == [next_one]
    assert "on purpose" in caplog.text


class Lines(logging.Handler):
    """The fields of what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put_nowait(record.fields)


@pytest.fixture
def lines():
    handler = Lines()
    logger.addHandler(handler)
    yield handler.queue
    logger.removeHandler(handler)


async def test_a_flood_of_refusals_is_one_line_at_a_time_with_how_many_it_stands_for(lines):
    refusals = Refusals(interval=0.05)
    for n in range(1000):
        refusals.log(FULL, f"192.0.2.{n % 250}")
    refusals.log(CROWDED, None)
    assert lines.qsize() == 2
    assert await lines.get() == {"because": "max_connections", "status": 503, "peer": "192.0.2.0"}
    assert await lines.get() == {"because": "max_pending", "status": 503}
    rest = await lines.get()
    assert rest == {"because": "max_connections", "status": 503, "times": 999, "peer": "192.0.2.249"}


async def test_a_refusal_long_after_the_last_one_is_logged_at_once(lines):
    refusals = Refusals(interval=0.0)
    refusals.log(FULL, "192.0.2.1")
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, over.set)  # after the timer of the first one
    await over.wait()
    assert lines.qsize() == 1
    refusals.log(FULL, "192.0.2.2")
    assert lines.qsize() == 2
    assert "times" not in lines.get_nowait()
    assert "times" not in lines.get_nowait()


def test_refusals_are_logged_again_after_the_event_loop_of_the_last_one_ended(lines, monkeypatch):
    now = 100.0
    monkeypatch.setattr(admission, "time", SimpleNamespace(monotonic=lambda: now))
    refusals = Refusals(interval=60)

    async def refuse(times: int) -> None:
        for _ in range(times):
            refusals.log(FULL, "192.0.2.1")

    asyncio.run(refuse(3))
    assert lines.qsize() == 1
    now += 61
    asyncio.run(refuse(1))
    lines.get_nowait()
    assert lines.get_nowait()["times"] == 3
