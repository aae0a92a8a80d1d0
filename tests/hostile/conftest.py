"""What the tests against hostile clients share."""

from collections.abc import Iterator

import pytest

from told import Logs, collected_logs


@pytest.fixture
def logs() -> Iterator[Logs]:
    """What is logged during the test."""
    with collected_logs() as logs:
        yield logs
