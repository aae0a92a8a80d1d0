"""hubbub's exceptions.

* :exc:`HubbubError`
    * :exc:`ConfigurationError`: a declaration or a setting can't work
        * :exc:`CollisionError`: two declarations claim the same name
    * :exc:`Denied`: raised by the application to refuse
    * :exc:`InvalidMessage`: a message can't be understood
    * :exc:`Unavailable`: the broker can't be reached; try again
    * :exc:`ClientError`: what the Python client raises
        * :exc:`RequestFailed`: the server answered with an error
        * :exc:`Unacknowledged`: it can't be known whether a request was carried out
        * :exc:`OutboxFull`: too much waits to be sent
        * :exc:`ReconnectFailed`: the client has stopped trying to come back
    * :exc:`ConnectionClosed` (also a ``websockets.ConnectionClosed``)
        * :exc:`ConnectionClosedOK`
        * :exc:`ConnectionClosedError`
"""

from collections.abc import Sequence

import websockets.exceptions
from websockets.frames import OK_CLOSE_CODES, Close, CloseCode

MOST_TOLD = 400
"""Characters of a sentence about what a client sent: a large message gets no larger answer."""


class HubbubError(Exception):
    """Base class of all exceptions that hubbub raises on purpose."""


class ConfigurationError(HubbubError):
    """A declaration or a setting can't work; the text says which one and what to do."""


class CollisionError(ConfigurationError):
    """Two rooms, messages or endpoints claim the same name; the text names both places."""


class Denied(HubbubError):
    """Raise it in a hook or a handler to refuse; the client is told `reason`.

    In `authenticate` the connection is closed with 4401, in `on_connect` and in an endpoint with 4403.
    Anywhere else the client's message is answered with an ``$error`` and the connection stays open.
    """

    def __init__(self, reason: str = "not allowed") -> None:
        self.reason = _told(reason)
        super().__init__(self.reason)


class InvalidMessage(HubbubError):
    """A message can't be understood.

    `problems` lists what is wrong where, as pairs of a path in the message's ``data`` (``$.text``) and a
    sentence. `code` is the ``$error`` code that the client gets. Texts above 400 characters are cut.
    """

    def __init__(
        self, message: str, problems: Sequence[tuple[str, str]] = (), *, code: str = "invalid"
    ) -> None:
        # Here, since what decoders say may quote the client's data, or name its keys, in full length.
        self.message = _told(message)
        super().__init__(self.message)
        self.problems = tuple((_told(path), _told(what)) for path, what in problems)
        self.code = _told(code)


def _told(text: object) -> str:
    """Return a text as a client can be told it: not too long, and nothing that UTF-8 has no bytes for."""
    told = str(text)
    if len(told) > MOST_TOLD:
        told = told[: MOST_TOLD - 3] + "..."
    return told if told.isascii() else told.encode(errors="replace").decode()


class Unavailable(HubbubError):
    """The broker can't be reached now; try again.

    What failed so may have been carried out all the same, if the broker was lost in the middle. A handler
    that sends the same once more in the same room has it published once.
    """


class ClientError(HubbubError):
    """Base class of what the Python client raises."""


class RequestFailed(ClientError):
    """The server answered a request with ``$error``.

    `code` is its error code, `retry` whether the same request may succeed later, `problems` what is wrong
    where, as pairs of a path in the request's ``data`` (``$.text``) and a sentence.
    """

    def __init__(
        self, code: str, message: str, *, retry: bool = False, problems: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.retry = retry
        self.problems = tuple(problems)


class Unacknowledged(ClientError):
    """The line was lost with a request on it, and to send it again might have it carried out twice.

    Its session can't be taken up any more: the server has restarted without what it knew, or the client was
    away for too long. Look at the state, then decide.
    """


class OutboxFull(ClientError):
    """As many requests wait to be sent or answered as may; wait for some of them, or send less."""


class ReconnectFailed(ClientError):
    """The client has stopped trying to come back: the attempts are used up, or the server said to stay away.

    `code` and `reason` are those with which the last connection was closed; None where there was none.
    """

    def __init__(self, message: str, code: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class ConnectionClosed(HubbubError, websockets.exceptions.ConnectionClosed):
    """The connection is closed; nothing can be sent or received any more.

    Programs written for the `websockets` library may keep catching its exception of the same name.
    """

    @property
    def code(self) -> int:
        """The close code received, else the one sent, else 1006 (RFC 6455 section 7.1.5)."""
        close = self.rcvd or self.sent
        return close.code if close else int(CloseCode.ABNORMAL_CLOSURE)

    @property
    def reason(self) -> str:
        """The reason that came with the code."""
        close = self.rcvd or self.sent
        return close.reason if close else ""


class ConnectionClosedOK(ConnectionClosed, websockets.exceptions.ConnectionClosedOK):
    """Both sides closed with 1000, 1001 or no code."""


class ConnectionClosedError(ConnectionClosed, websockets.exceptions.ConnectionClosedError):
    """The connection was closed with an error, or was lost without a closing handshake."""


def connection_closed(rcvd: Close | None, sent: Close | None, rcvd_first: bool) -> ConnectionClosed:
    """Return the exception for a connection that ended with these close frames."""
    order = rcvd_first if rcvd and sent else None
    if rcvd and sent and rcvd.code in OK_CLOSE_CODES and sent.code in OK_CLOSE_CODES:
        return ConnectionClosedOK(rcvd, sent, order)
    return ConnectionClosedError(rcvd, sent, order)
