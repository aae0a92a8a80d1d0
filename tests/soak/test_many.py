"""Small soaks of many instances, one for each trouble, and what breaks the promise there is found out."""

import asyncio

import pytest
import redis.asyncio

from hubbub.errors import ConfigurationError
from hubbub.soak.ledger import Breach
from hubbub.soak.order import Order, Outage
from hubbub.soak.progress import Progress
from hubbub.soak.report import Report
from hubbub.soak.run import run
from hubbub.testing.servers.redis import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180), pytest.mark.usefixtures("liars")]

SMALL = {"clients": 12, "rooms": 3, "seed": 4, "fault_every": 0, "instances": 2, "rate": 200.0}
MEMBERS = 4


def check(report: Report) -> None:
    """Check that nothing was lost, and all of it was there."""
    assert report.sound, [*report.told, report.log]
    assert report.published == report.acknowledged
    assert report.receipts == MEMBERS * report.published
    assert report.gaps == 0


async def test_instances_that_are_killed_in_turn_lose_nothing():
    report = await run(Order(seconds=5, broker="redis", kill_every=1, **{**SMALL, "instances": 3}))
    check(report)
    assert report.kills >= 2
    assert report.lines_lost > 0
    assert 0 < report.gone_p50 <= report.gone_p99 <= report.gone_max


async def test_faults_of_clients_and_instances_together_lose_nothing():
    order = {**SMALL, "fault_every": 0.1}
    report = await run(Order(seconds=4, broker="redis", kills=2, faults=("cut", "reset"), **order))
    check(report)
    assert report.kills == 2
    assert report.faults.total() > 10


@pytest.mark.parametrize("line", ["sse", "stream", "poll", "grpc"])
async def test_nothing_is_lost_by_any_kind_of_line_whose_requests_go_to_all_instances(line):
    order = {**SMALL, "instances": 3, "fault_every": 0.2, "line": line}
    report = await run(Order(seconds=3, broker="redis", kills=1, faults=("cut", "reset"), **order))
    check(report)
    assert report.kills == 1
    assert report.lines_lost > 0


@pytest.mark.parametrize("line", ["sse", "poll", "grpc"])
async def test_a_lost_acknowledgement_doubles_nothing_by_any_kind_of_line(line):
    report = await run(
        Order(seconds=0.1, lose_acknowledgements=10, **{**SMALL, "instances": 1, "line": line})
    )
    assert report.sound, [*report.told, report.log]
    assert report.lost_acknowledgements == 10


async def test_all_instances_are_restarted_one_after_the_other():
    report = await run(Order(seconds=2, broker="redis", rolling=True, **SMALL))
    check(report)
    assert report.restarts == 2
    assert report.lines_lost >= 12


@pytest.mark.parametrize("how", ["stop", "kill", "pause"])
async def test_while_the_broker_is_away_lines_stay_and_publishes_are_put_off(how):
    report = await run(Order(seconds=2, broker="redis", broker_down=(Outage(1.5, how),), **SMALL))
    check(report)
    assert len(report.broker_away) == 1
    assert report.broker_away[0] >= 1.5
    assert report.lines_lost == report.lines_lost_with_broker == 0
    assert report.landed == report.put_off
    if how != "pause":  # then all of them may just have taken longer
        assert report.put_off > 0


async def test_connections_to_the_broker_that_are_cut_lose_nothing():
    report = await run(Order(seconds=3, broker="redis", broker_cut_every=0.5, **SMALL))
    check(report)
    assert report.broker_cuts >= 4
    assert report.lines_lost == 0


async def test_publishes_of_a_parted_instance_are_put_off_and_land_once(monkeypatch):
    monkeypatch.setenv("HUBBUB_BROKER_TIMEOUT", "0.5")
    report = await run(Order(seconds=2, broker="redis", partition=(2.0,), **SMALL))
    check(report)
    assert report.partitions == 1
    assert report.put_off == report.landed > 0
    assert report.lines_lost == 0


@pytest.mark.parametrize("broker", ["rabbitmq", "nats"])
async def test_other_brokers_lose_nothing_either(broker):
    order = Order(
        seconds=4, broker=broker, kills=1, broker_down=(Outage(1),), patience=90, **{**SMALL, "rate": 100.0}
    )
    report = await run(order)
    check(report)
    assert report.kills == 1
    assert len(report.broker_away) == 1


async def test_a_broker_that_was_emptied_is_found_out():
    """It can't be blamed on the clients' history: what was acknowledged is no longer there."""
    async with RedisServer() as server, redis.asyncio.Redis.from_url(server.url) as outsider:
        emptying: list[asyncio.Task[object]] = []

        def watch(progress: Progress) -> None:
            if progress.published > 200 and not emptying:
                emptying.append(asyncio.create_task(outsider.flushall()))

        report = await run(Order(seconds=3, broker=server.url, patience=15, **SMALL), watch)
        await asyncio.gather(*emptying)
    assert not report.sound
    assert report.breaches[Breach.FORGOTTEN] >= 12
    assert report.gaps >= 12


async def test_instances_that_hide_messages_are_found_out():
    order = Order(messages=300, broker="redis", app="soak.liars:losing", patience=1, **SMALL)
    assert (await run(order)).breaches[Breach.LOST] > 0


async def test_lines_that_go_with_the_broker_are_found_out():
    order = Order(messages=200, broker="redis", app="soak.liars:nervous", broker_down=(Outage(0.5),), **SMALL)
    report = await run(order)
    assert report.breaches[Breach.DROPPED] == report.lines_lost > 0


async def test_an_instance_that_ends_by_itself_is_found_out():
    order = Order(messages=300, broker="redis", app="soak.liars:dying", patience=2, **SMALL)
    report = await run(order)
    assert any("has ended by itself" in told for told in report.told)
    assert any("no message could be published" in told for told in report.told)


@pytest.mark.parametrize("broker", ["memory://", "sqlite:///rooms.db"])
async def test_instances_need_a_broker_that_they_can_share(broker):
    with pytest.raises(ConfigurationError, match="can't share"):
        await run(Order(broker=broker, **SMALL))
