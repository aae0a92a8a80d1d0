from collections.abc import Iterator

import pytest

from hubbub.testing.plugin import hub_client
from told import Logs, collected_logs

__all__ = ["hub_client", "logs"]


@pytest.fixture
def logs() -> Iterator[Logs]:
    """What is logged during the test."""
    with collected_logs() as logs:
        yield logs
