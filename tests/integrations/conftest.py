"""A database of the example project, made once."""

from pathlib import Path

import pytest

from integrations.django_project import make_database


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """For fixtures of a module, too: servers that several tests use."""
    return "asyncio"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and two users, to be copied."""
    return make_database(tmp_path_factory.mktemp("django") / "db.sqlite3")
