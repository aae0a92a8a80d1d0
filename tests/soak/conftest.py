"""Small soaks."""

import pytest

from soak.liars import let_them_be_found


@pytest.fixture
def liars(monkeypatch):
    """Have servers find the applications that break the promise."""
    let_them_be_found(monkeypatch)
