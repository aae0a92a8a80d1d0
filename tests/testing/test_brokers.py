"""The conformance suite's own parts; the suite itself is run by the brokers' tests."""

import pytest

from hubbub.brokers.base import Entry
from hubbub.testing.brokers import BrokerConformance, Inbox


async def test_an_inbox_that_waits_in_vain_says_what_did_arrive(monkeypatch):
    monkeypatch.setattr("hubbub.testing.brokers.engines.ARRIVES_WITHIN", 0.01)
    inbox = Inbox()
    inbox.deliver("room", Entry(1, b"first", None), "epoch")
    inbox.control(b"hello")
    with pytest.raises(AssertionError, match=r"all that arrived.*first.*hello"):
        await inbox.entries("room", 2)


def test_the_suite_asks_what_to_test():
    with pytest.raises(NotImplementedError):
        BrokerConformance().make_engine()
