"""The ledger and its judgement: each way to break the promise is found, and nothing else is taken for one."""

import random

import pytest

from hubbub.protocol.envelope import Position
from hubbub.soak.judgement import Past, Verdict, judge
from hubbub.soak.ledger import Breach, Fate, Ledger, View

START = Position("one", 0)


class Soak:
    """A room `r` with a few members; client 0 publishes unless it is said who does."""

    def __init__(self, members: int = 2, *, excluding: bool = False) -> None:
        self.ledger = Ledger(excluding=excluding)
        self.room = self.ledger.room("r")
        self.views = [self.room.view(client, START) for client in range(members)]

    def publish(self, client: int = 0, *, at: int | None = None, epoch: str = "one") -> int:
        """Publish a message; it is acknowledged as one that stands at an offset, if that is given."""
        number = self.ledger.published(self.room, client)
        if at is not None:
            self.ledger.acknowledged(number, Position(epoch, at))
        return number

    def shown(self, *messages: tuple[int, int], to: int | None = None) -> None:
        """Show messages, each an offset and a number, to all or to one."""
        for view in self.views if to is None else [self.views[to]]:
            for offset, number in messages:
                view.received(offset, number)

    def judge(self, *history: tuple[int, int], end: Position | None = None, durable: bool = False) -> Verdict:
        past = Past(end or Position("one", max((offset for offset, _ in history), default=0)), history)
        return judge(self.ledger, {"r": past}, durable=durable)


def found(verdict: Verdict) -> dict[Breach, int]:
    return dict(verdict.breaches.counts)


def three() -> tuple[Soak, list[tuple[int, int]]]:
    """A soak with three acknowledged messages, and where they stand."""
    soak = Soak()
    return soak, [(offset, soak.publish(at=offset)) for offset in (1, 2, 3)]


def test_what_everyone_was_shown_is_no_breach():
    soak, messages = three()
    soak.shown(*messages)
    verdict = soak.judge(*messages)
    assert (found(verdict), verdict.receipts, verdict.gaps) == ({}, 6, 0)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_message_that_one_member_was_not_shown_is_lost(missing):
    soak, messages = three()
    soak.shown(*messages, to=0)
    soak.shown(*(messages[:missing] + messages[missing + 1 :]), to=1)
    verdict = soak.judge(*messages)
    assert found(verdict) == {Breach.LOST: 1}
    assert "client 1" in verdict.breaches.told[0]
    assert verdict.receipts == 5


def test_a_message_that_only_history_has_is_lost_for_each_member():
    soak, messages = three()
    soak.shown(*messages[:2])
    assert found(soak.judge(*messages)) == {Breach.LOST: 2}


def test_an_acknowledged_message_that_nobody_has_is_lost_for_all():
    soak, messages = three()
    soak.shown(*messages)
    soak.publish(at=4)
    assert found(soak.judge(*messages)) == {Breach.LOST: 2 + 1}


def test_a_message_that_does_not_stand_where_its_publisher_was_told_is_found():
    soak, messages = three()
    soak.shown(*messages)
    soak.publish(at=2)
    assert found(soak.judge(*messages)) == {Breach.REORDERED: 1}


def test_a_message_that_members_were_shown_and_history_does_not_have_is_lost():
    soak, messages = three()
    soak.shown(*messages)
    assert found(soak.judge(*messages[:2])) == {Breach.LOST: 1}


def test_a_message_that_was_not_acknowledged_need_not_be_there_but_may():
    soak, messages = three()
    there, gone, refused = (soak.publish() for _ in range(3))
    for number in (there, gone):
        soak.ledger.failed(number, Fate.UNACKNOWLEDGED)
    soak.ledger.failed(refused, Fate.REFUSED)
    messages.append((4, there))
    soak.shown(*messages)
    verdict = soak.judge(*messages)
    assert (found(verdict), verdict.uncertain) == ({}, 1)


def test_a_message_that_stands_in_its_room_twice_is_doubled():
    soak, messages = three()
    messages.append((4, messages[0][1]))
    soak.shown(*messages)
    assert found(soak.judge(*messages)) == {Breach.DOUBLED: 1}


def test_a_message_that_is_there_again_after_the_room_began_anew_is_doubled():
    soak, messages = three()
    soak.shown(*messages)
    for view in soak.views:
        view.gap(Position("two", 0))
        view.received(1, messages[2][1])
    verdict = soak.judge((1, messages[2][1]), end=Position("two", 1))
    assert found(verdict) == {Breach.DOUBLED: 1}


def test_a_message_that_a_member_was_shown_again_is_doubled():
    soak, messages = three()
    soak.shown(*messages, messages[1])
    assert found(soak.judge(*messages)) == {Breach.DOUBLED: 2}


def test_a_message_that_a_member_was_shown_late_is_out_of_order_and_not_lost():
    soak, messages = three()
    soak.shown(*messages, to=0)
    soak.shown(messages[0], messages[2], messages[1], to=1)
    assert found(soak.judge(*messages)) == {Breach.REORDERED: 1}


def test_members_that_were_shown_another_order_are_found():
    soak, ((_, first), (_, second), third) = three()
    soak.shown((1, first), (2, second), third, to=0)
    soak.shown((1, second), (2, first), third, to=1)
    assert found(soak.judge((1, first), (2, second), third))[Breach.REORDERED] == 2


def test_a_history_that_says_otherwise_than_members_were_shown_is_found():
    soak, ((_, first), (_, second), third) = three()
    soak.shown((1, first), (2, second), third)
    assert found(soak.judge((1, second), (2, first), third))[Breach.REORDERED] == 2


def test_a_publishers_messages_in_another_order_than_it_sent_them_are_found():
    soak = Soak()
    first, second = soak.publish(at=2), soak.publish(at=1)
    messages = (1, second), (2, first)
    soak.shown(*messages)
    assert found(soak.judge(*messages)) == {Breach.REORDERED: 1}


def test_a_message_that_was_sent_to_another_room_or_by_nobody_is_stray():
    soak, messages = three()
    elsewhere = soak.ledger.published(soak.ledger.room("other"), 0)
    messages += [(4, elsewhere), (5, 1000)]
    soak.shown(*messages)
    assert found(soak.judge(*messages)) == {Breach.STRAY: 2}


def test_two_publishers_messages_may_be_in_any_order():
    soak = Soak()
    first, second = soak.publish(client=0, at=2), soak.publish(client=1, at=1)
    soak.shown((1, second), (2, first))
    assert found(soak.judge((1, second), (2, first))) == {}


def test_what_a_member_was_told_it_missed_is_told_and_not_lost():
    soak, messages = three()
    soak.shown(*messages, to=0)
    soak.shown(messages[0], to=1)
    soak.views[1].gap(Position("one", 2))
    soak.shown(messages[2], to=1)
    verdict = soak.judge(*messages)
    assert (found(verdict), verdict.gaps, verdict.told, verdict.receipts) == ({}, 1, 1, 5)


def test_what_comes_after_a_gap_is_lost_if_it_is_not_shown():
    soak, messages = three()
    soak.shown(*messages, to=0)
    soak.views[1].gap(Position("one", 1))
    soak.shown(messages[2], to=1)
    assert found(soak.judge(*messages)) == {Breach.LOST: 1}


def test_what_all_were_told_they_missed_is_not_lost_even_if_history_has_forgotten_it():
    soak, messages = three()
    for view in soak.views:
        view.gap(Position("one", 2))
    soak.shown(messages[2])
    verdict = soak.judge(messages[2])
    assert (found(verdict), verdict.gaps) == ({}, 2)
    soak.publish(at=4)
    assert found(soak.judge(messages[2])) == {Breach.LOST: 3}


def test_the_end_of_a_room_that_began_anew_may_be_gone_if_its_members_were_told():
    soak, messages = three()
    soak.shown(*messages[:2], to=0)
    soak.shown(messages[0], to=1)
    for view in soak.views:
        view.gap(Position("two", 0))
    after = soak.publish(at=1, epoch="two")
    soak.shown((1, after))
    verdict = soak.judge((1, after), end=Position("two", 1))
    assert (found(verdict), verdict.gaps, verdict.told) == ({}, 2, 3)


def test_a_member_that_was_not_told_that_the_room_began_anew_is_found():
    soak, messages = three()
    soak.shown(*messages)
    soak.views[0].gap(Position("two", 0))
    assert found(soak.judge(end=Position("two", 0))) == {Breach.LOST: 1}


def test_nobody_need_be_shown_an_epoch_that_they_were_told_they_missed():
    soak, messages = three()
    soak.shown(*messages)
    soak.views[0].gap(Position("two", 0))
    number = soak.publish(at=1, epoch="two")
    soak.views[0].received(1, number)
    for view in soak.views:
        view.gap(Position("three", 0))
    verdict = soak.judge(end=Position("three", 0))
    assert (found(verdict), verdict.told) == ({}, 1)


def test_a_publisher_is_not_shown_what_it_was_excluded_from():
    soak = Soak(excluding=True)
    own, others, again = (soak.publish(client, at=at) for at, client in enumerate((0, 1, 0), 1))
    messages = (1, own), (2, others), (3, again)
    soak.shown((2, others), to=0)
    soak.shown((1, own), (3, again), to=1)
    assert soak.views[0].at_end()
    verdict = soak.judge(*messages)
    assert (found(verdict), verdict.receipts) == ({}, 3)


def test_a_publisher_that_was_shown_its_own_message_though_excluded_is_found():
    soak = Soak(excluding=True)
    own = soak.publish(client=0, at=1)
    soak.shown((1, own))
    verdict = soak.judge((1, own))
    assert found(verdict) == {Breach.RETURNED: 1}


def test_another_members_message_is_lost_even_where_own_ones_are_left_out():
    soak = Soak(excluding=True)
    own, others, last = (soak.publish(client, at=at) for at, client in enumerate((0, 1, 1), 1))
    soak.shown((3, last), to=0)
    soak.shown((1, own), to=1)
    assert found(soak.judge((1, own), (2, others), (3, last))) == {Breach.LOST: 1}


def test_its_own_messages_need_not_be_known_to_anybody_where_the_others_were_told_of_a_gap():
    soak = Soak(excluding=True)
    soak.publish(client=0, at=1)
    unanswered = soak.publish(client=0)
    soak.ledger.failed(unanswered, Fate.UNACKNOWLEDGED)
    soak.views[1].gap(Position("one", 2))
    last = soak.publish(client=1, at=3)
    soak.shown((3, last), to=0)
    assert found(soak.judge((3, last))) == {}


def test_only_as_many_unknown_messages_can_be_its_own_as_it_has_lost_sight_of():
    soak = Soak(excluding=True)
    soak.ledger.failed(soak.publish(client=0), Fate.UNACKNOWLEDGED)
    soak.views[1].gap(Position("one", 2))
    last = soak.publish(client=1, at=3)
    soak.shown((3, last), to=0)
    verdict = soak.judge((3, last))
    assert found(verdict) == {Breach.LOST: 1}
    assert "a message that nobody knows" in verdict.breaches.told[0]


@pytest.mark.parametrize(
    ("positions", "at_end"), [([], False), ([1], False), ([1, 2], True), ([2], True)], ids=str
)
def test_a_member_is_at_the_end_when_it_was_shown_the_newest(positions, at_end):
    soak = Soak()
    numbers = {offset: soak.publish(at=offset) for offset in (1, 2)}
    soak.shown(*numbers.items(), to=0)
    soak.shown(*((offset, numbers[offset]) for offset in positions), to=1)
    assert soak.views[0].at_end()
    assert soak.views[1].at_end() is at_end


def test_a_member_of_an_old_epoch_is_not_at_the_end():
    soak = Soak()
    soak.views[0].gap(Position("two", 0))
    assert [view.at_end() for view in soak.views] == [True, False]


def test_a_member_has_reached_what_it_was_told_it_missed():
    soak = Soak()
    view, _ = soak.views
    soak.views[1].gap(Position("two", 0))
    missed = soak.room.newest
    assert not view.reached(missed, 0)
    view.gap(Position("three", 0))
    assert view.reached(missed, 5)


def test_only_the_first_breaches_are_told_but_all_are_counted():
    soak = Soak(members=1)
    messages = [(offset, soak.publish(at=offset)) for offset in range(1, 1001)]
    soak.shown(*messages[::2])
    verdict = soak.judge(*messages)
    assert verdict.breaches.counts[Breach.LOST] == 500
    assert 0 < len(verdict.breaches.told) < 100


def test_a_random_loss_in_a_long_soak_is_counted_exactly():
    randomness = random.Random(4)
    soak = Soak(members=5)
    messages = [(offset, soak.publish(randomness.randrange(5), at=offset)) for offset in range(1, 2001)]
    lost = 0
    for view in soak.views:
        for offset, number in messages:
            if randomness.random() < 0.01:
                lost += 1
            else:
                view.received(offset, number)
    verdict = soak.judge(*messages)
    assert found(verdict) == {Breach.LOST: lost}
    assert verdict.receipts == 5 * 2000 - lost


def test_views_are_of_one_room_each():
    ledger = Ledger()
    here, there = ledger.room("here"), ledger.room("there")
    views: list[View] = [here.view(0, START), there.view(0, START)]
    number = ledger.published(there, 0)
    ledger.acknowledged(number, Position("one", 1))
    views[1].received(1, number)
    pasts = {"here": Past(START, []), "there": Past(Position("one", 1), [(1, number)])}
    assert found(judge(ledger, pasts)) == {}


@pytest.mark.parametrize("epoch", ["one", "two"])
def test_a_gap_in_what_a_durable_broker_keeps_is_forgotten(epoch):
    soak, messages = three()
    soak.shown(*messages, to=0)
    soak.shown(messages[0], to=1)
    soak.views[1].gap(Position(epoch, 3))
    if epoch == "two":
        soak.views[0].gap(Position("two", 3))
    verdict = soak.judge(*messages, end=Position(epoch, 3), durable=True)
    assert verdict.breaches.counts[Breach.FORGOTTEN] == verdict.gaps == (1 if epoch == "one" else 2)
    assert any("was told of a gap" in told for told in verdict.breaches.told)


@pytest.mark.parametrize("why", ["put_off", "unordered"])
def test_what_was_put_off_may_come_after_what_its_publisher_sent_later(why):
    soak = Soak()
    first, second, third = (soak.publish() for _ in range(3))
    getattr(soak.ledger, why).add(first)
    messages = [(1, second), (2, first), (3, third)]
    soak.shown(*messages)
    assert found(soak.judge(*messages)) == {}


def test_what_was_put_off_is_there_once_all_the_same():
    soak = Soak()
    first = soak.publish()
    soak.ledger.put_off.add(first)
    messages = [(1, first), (2, first)]
    soak.shown(*messages)
    assert found(soak.judge(*messages)) == {Breach.DOUBLED: 1}
