"""What happens in the project that connections hear of: a logout."""

import asyncio
import secrets
from typing import TYPE_CHECKING

from ...engine.control import Disconnect, send
from ...errors import ConfigurationError, HubbubError
from ...observe.log import fields, logger
from .application import the_hub
from .login import known_by
from .publishing import connected_publisher

if TYPE_CHECKING:
    from concurrent.futures import Future

    from django.contrib.auth.base_user import AbstractBaseUser
    from django.http import HttpRequest

REASON = "You logged out."


def logged_out(
    sender: object,  # noqa: ARG001
    request: "HttpRequest | None",
    user: "AbstractBaseUser | None",
    **_: object,
) -> None:
    """Close the connections that were logged in with the session that ends: on all instances, with 4401.

    Without a session, as Channels sends the signal, all connections of the user. Nobody waits for it, and the
    logout does not fail with it.
    """
    if user is None:
        return
    session = getattr(request, "session", None)
    key = None if session is None else session.session_key
    login = None if key is None else known_by(key)
    hub, name = the_hub(), str(user.pk)
    if hub.loop is not None:
        closing = asyncio.run_coroutine_threadsafe(
            hub.disconnect(user=name, reason=REASON, login=login), hub.loop
        )
        closing.add_done_callback(_tell)
        return
    try:
        connected_publisher().on_broker(
            # Nobody is called as the one that asks: no answer is waited for.
            lambda broker: send(
                broker, None, Disconnect(secrets.token_hex(8), secrets.token_hex(6), name, REASON, login)
            )
        )
    except ConfigurationError:
        pass  # a broker of one process, and the hub is not in this one: nobody is there to be told
    except (HubbubError, TimeoutError) as problem:
        logger.warning("control", extra=fields(user=name, problem=str(problem)))


def _tell(closing: "Future[int | None]") -> None:
    problem = None if closing.cancelled() else closing.exception()
    if problem is not None:
        logger.warning("control", extra=fields(during="logout", problem=str(problem)))
