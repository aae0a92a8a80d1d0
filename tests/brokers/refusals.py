"""What a broker that can't be reached is asked for."""

from collections.abc import Coroutine
from typing import Any

import pytest

from hubbub import Unavailable


def refuses_at_once(call: Coroutine[Any, Any, object]) -> None:
    """Check that a call raises :exc:`Unavailable` and waits for nothing before it."""
    with pytest.raises(Unavailable):
        call.send(None)
    call.close()
