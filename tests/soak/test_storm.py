"""Storms in small."""

import pytest

from hubbub.soak.storm import Busiest, StormOrder, storm

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.mark.parametrize("jitter", [True, False])
async def test_all_clients_come_back_after_a_kill_and_are_told_of_the_gap(jitter):
    report = await storm(StormOrder(clients=40, rooms=4), jitter=jitter)
    assert report.sound, report.told
    assert report.jitter is jitter
    assert report.gaps >= 40
    assert report.back_in_busiest > 0
    assert 0 < report.down < report.seconds
    assert report.recovery_p50 <= report.recovery_p99 <= report.seconds
    assert report.memory.begin > 0
    assert report.memory.peak > 0


async def test_after_a_drain_a_broker_on_a_file_has_lost_nothing(tmp_path):
    order = StormOrder(clients=40, rooms=4, drain=True, broker=f"sqlite:///{tmp_path}/storm.db")
    report = await storm(order, jitter=True)
    assert report.sound, report.told
    assert report.gaps == 0


async def test_clients_that_do_not_come_back_are_found(liars, tmp_path, monkeypatch):
    monkeypatch.setenv("LIARS_MARK", str(tmp_path / "mark"))
    report = await storm(StormOrder(clients=10, rooms=1, patience=2, app="soak.liars:closed"), jitter=True)
    assert not report.sound
    assert any("has not come back" in told for told in report.told)
    assert any("could not come to its end" in told for told in report.told)


def test_the_busiest_second_is_the_one_in_which_most_was_added():
    busiest = Busiest()
    for now, value in [(0.0, 0), (0.5, 1), (1.2, 5), (1.4, 9), (3.0, 10), (3.1, 10)]:
        busiest.add(now, value)
    assert busiest.most == 8
