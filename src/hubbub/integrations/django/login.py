"""Who a connection is, as Django knows it: by its session, or by a token that an backend knows."""

import functools
import hashlib
import io
from importlib import import_module
from typing import TYPE_CHECKING

from django.conf import settings as project
from django.contrib import auth
from django.core.handlers.asgi import ASGIRequest

from ...engine.connection import Connection
from ...errors import Denied

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser
    from django.contrib.sessions.backends.base import SessionBase
    from django.http import HttpRequest

USER, LOGIN = "user", "login"
"""Under which names `connection.state` has the user, and what the session is known by."""


def log_in(connection: Connection) -> str | None:
    """Return the primary key of the connection's user as a string, None for who is not logged in.

    It is the hub's `authenticate` hook where the application has none, and may be called in one. Who shows a
    token (:attr:`hubbub.Connection.token`) is asked of the authentication backends that take ``token=``;
    :exc:`hubbub.Denied` if none knows it. Others are who their session says, or ``scope["user"]`` where
    Channels' ``AuthMiddleware`` was before the hub. It asks the database: call it from a plain ``def``.
    """
    user = find_user(connection)
    return str(user.pk) if user.is_authenticated else None


def user_of(connection: Connection) -> "AbstractBaseUser | AnonymousUser":
    """Return the user object of a connection, as it was at the login; an ``AnonymousUser`` for a guest.

    It asks the database only where the application has an `authenticate` hook of its own that did not call
    :func:`log_in`; call it from a plain ``def`` then.
    """
    found = connection.state.get(USER)
    return find_user(connection) if found is None else found


def request_of(connection: Connection) -> "HttpRequest":
    """Return the request that opened the connection, as Django shows it: ``COOKIES``, ``META``, ``session``.

    For an authentication backend that asks for it. It went through no middleware.
    """
    scope = connection.scope
    request = ASGIRequest({**scope, "type": "http", "method": scope.get("method", "GET")}, io.BytesIO())
    request.session = session_of(connection)
    return request


def find_user(connection: Connection) -> "AbstractBaseUser | AnonymousUser":
    """Ask who a connection's user is, and remember it in `connection.state`.

    Who logs in once more, with a token, hangs on the session all the same.
    """
    state, token = connection.state, connection.token
    user: AbstractBaseUser | AnonymousUser
    if token is not None:
        found = auth.authenticate(request_of(connection), token=token)
        if found is None:
            raise Denied("Log in again.")
        user = found
    else:
        request = request_of(connection)
        known = auth.get_user(request)
        user = connection.scope.get("user") or known
        # A middleware may have known the user by something else.
        if known.is_authenticated and known.pk == user.pk and request.session.session_key:
            state[LOGIN] = known_by(request.session.session_key)
    if connection.user in (None, str(user.pk)):
        state[USER] = user  # another's login is refused
    return user


def is_still(connection: Connection) -> bool:
    """Tell whether a connection's session still says that it is its user's: it may be over, or flushed."""
    user = auth.get_user(request_of(connection))
    return bool(user.is_authenticated and str(user.pk) == connection.user)


def session_of(connection: Connection) -> "SessionBase":
    """Return a connection's session, which is loaded when something of it is asked for."""
    present = connection.scope.get("session")  # of Channels' middleware
    if present is not None:
        key = present.session_key
    else:
        key = connection.request.cookies.get(project.SESSION_COOKIE_NAME)
    session: SessionBase = _store(project.SESSION_ENGINE)(key)
    return session


@functools.cache
def _store(engine: str) -> "type[SessionBase]":
    """Return a class of sessions that keep their key.

    With ``SECRET_KEY_FALLBACKS``, ``get_user`` gives a session of before a new one, which an open connection
    can't tell the browser: its user would be logged out.
    """
    kind: type[SessionBase] = import_module(engine).SessionStore

    def cycle_key(self: "SessionBase") -> None:
        pass

    return type(kind.__name__, (kind,), {"cycle_key": cycle_key})


def known_by(session_key: str) -> str:
    """Return what a session is known by to other instances: its key is a secret."""
    return hashlib.sha256(session_key.encode()).hexdigest()[:32]
