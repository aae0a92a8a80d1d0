"""What the tests of the client share."""

from typing import Any

import pytest

from client.lines import Conversation, Exchange


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
def conversation(exchange: Exchange) -> Any:
    """Begin a conversation: a client on a line whose other end is the test."""

    def begin(welcome: dict[str, Any] | None = None, **options: Any) -> Conversation:
        return Conversation(exchange, welcome or {}, **options)

    return begin
