"""Threads of plain handlers: what Django gives back after each request, they give back after each call."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import close_old_connections


@contextmanager
def database_connections() -> Iterator[None]:
    """Close database connections that are too old or broken, before and after, as around a request."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
