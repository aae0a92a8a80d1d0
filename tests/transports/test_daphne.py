"""A Daphne that is not as it was is told of; what it does where it is, tests/matrix shows."""

import functools
import sys
from types import ModuleType
from typing import Any

import pytest

from hubbub.transports import daphne


class Changed:
    """A protocol object that lacks something."""

    state = 3


Changed.__module__ = daphne.WEBSOCKETS


async def handle_reply(protocol: object, message: Any) -> None: ...


async def plain(message: Any) -> None: ...


@pytest.fixture(autouse=True)
def _under_daphne(monkeypatch):
    monkeypatch.setitem(sys.modules, "daphne.server", ModuleType("daphne.server"))
    daphne._warn.cache_clear()
    yield
    daphne._warn.cache_clear()


@pytest.mark.parametrize(
    "send", [plain, functools.partial(handle_reply, Changed())], ids=["wrapped", "changed"]
)
def test_a_connection_that_is_not_recognised_is_told_of_once(caplog, send):
    scope: dict[str, Any] = {"type": "websocket"}
    for _ in range(2):
        assert daphne.under_daphne(scope, send) is None
        assert "extensions" not in scope
    assert caplog.text.count("is not recognised") == 1


def test_other_servers_are_not_daphne(caplog):
    assert daphne.under_daphne({"type": "websocket", "extensions": {}}, plain) is None
    assert "recognised" not in caplog.text
