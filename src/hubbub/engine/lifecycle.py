"""A connection's life: handshake, login, its messages, and the clean-up that always runs."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType

import anyio

from ..errors import ConfigurationError, ConnectionClosed, Denied, Unavailable
from ..observe.log import correlation_id, fields, logger
from ..protocol.codes import CloseCode, ErrorCode
from ..protocol.envelope import Envelope, Failure
from ..settings import Settings
from .attempt import ATTEMPT
from .callback import NOT_CALLED, Callback
from .connection import Connection
from .handling import Handling
from .hub import Hub
from .membership import Memberships
from .room import Rooms
from .router import Router
from .session import Session


@dataclass
class Hooks:
    """What the application wants to be asked and told about connections."""

    authenticate: Callback | None = None
    connect: Callback | None = None
    disconnect: Callback | None = None

    async def log_in(self, connection: Connection) -> str | None:
        """Return who the connection's user is; :exc:`Denied` if the application refuses."""
        if self.authenticate is None:
            return None
        user = await self.authenticate(connection, None, None)
        if isinstance(user, str):
            if not user or user.startswith("guest:"):
                raise Denied("this name is not to be had")
        elif user is not None:
            raise ConfigurationError(
                f"{self.authenticate.place} returned a {type(user).__name__}; it has to return the user's "
                "id, a string, or None for a guest."
            )
        return user


class Connected:
    """Keeps a connection registered and watched while the body serves it; closes it in the end and cleans up.

    A class, since the generator behind an `asynccontextmanager` is half a kilobyte for each idle connection.
    """

    __slots__ = ("_began", "_connection", "_hub", "_memberships", "_subprotocol", "on_disconnect")

    def __init__(
        self,
        hub: Hub,
        connection: Connection,
        subprotocol: str | None = None,
        memberships: Memberships | None = None,
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._subprotocol = subprotocol
        self._memberships = memberships
        self._began = 0.0
        self.on_disconnect: Callback | None = None
        """Called in the end, once the application knows of the client."""

    async def __aenter__(self) -> "Connected":
        connection = self._connection
        correlation_id.set(connection.correlation_id)
        self._began = asyncio.get_running_loop().time()
        self._hub.connections[connection.id] = connection
        try:
            await connection.transport.accept(connection, self._subprotocol)
        except BaseException:
            connection.transport.abort()
            self._forget()
            raise
        if self._memberships is not None:
            self._hub.sessions.begin(connection)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        connection = self._connection
        if isinstance(problem, asyncio.CancelledError):
            connection.transport.abort()
        if self._logged(problem):
            connection.start_close(CloseCode.INTERNAL_ERROR, "internal error")
        else:
            connection.start_close(CloseCode.NORMAL, "")
        try:
            await connection.wait_closed()
        finally:
            if not connection.lost:
                # Who waited for the end of the line was cancelled, and nobody else would see to it.
                connection.transport.abort()
            try:
                memberships = self._memberships
                if memberships is not None:
                    self._hub.sessions.end(connection)
                    if memberships or self.on_disconnect is not None:
                        await _in_any_case(self._clean_up(memberships), self._hub.settings.close_timeout)
            finally:
                self._forget()
        return isinstance(problem, Exception)

    async def _clean_up(self, memberships: Memberships) -> None:
        connection = self._connection
        try:
            try:
                # A line that was cut tells so in the next turn.
                await connection.wait_closed()
            finally:
                try:
                    await memberships.leave_all()
                finally:
                    if self.on_disconnect is not None:
                        await self.on_disconnect(connection, None, None)
        except Exception as problem:
            self._logged(problem)

    def _logged(self, problem: BaseException | None) -> bool:
        """Log what went wrong; false if nothing did."""
        connection = self._connection
        # A closed connection is no error, unless it is another one, which the application talked to.
        if not isinstance(problem, Exception) or (
            isinstance(problem, ConnectionClosed) and connection.closing
        ):
            return False
        if isinstance(problem, Unavailable):
            # Its broker has said so already: one line is enough for each of the many that meet it.
            logger.warning("error", extra=fields(connection=connection.id, reason=str(problem)))
            return True
        logger.error("error", exc_info=problem, extra=fields(connection=connection.id))
        return True

    def _forget(self) -> None:
        connection = self._connection
        connection.memberships = None
        self._hub.forget(connection)
        ended, why = connection.why_ended
        logger.info(
            "disconnect",
            extra=fields(
                connection=connection.id,
                user=connection.user,
                code=ended,
                reason=why or None,
                duration=asyncio.get_running_loop().time() - self._began,
                messages_in=connection.messages_in,
                messages_out=connection.outbox.written,
            ),
        )


async def _in_any_case(work: Coroutine[object, object, None], seconds: float) -> None:
    """Wait for work that must be done even if the task that waits is cancelled, once or often.

    It is done in a task of its own: a cancellation would end it wherever it is. From a cancellation on, each
    of its steps that does not end within `seconds` is cancelled after all.
    """
    waiting = asyncio.current_task()
    assert waiting is not None
    task = asyncio.create_task(work, name="hubbub: clean-up")
    cancelled: asyncio.CancelledError | None = None
    # A scope of anyio's would cancel again in every turn.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,), timeout=seconds if waiting.cancelling() else None)
            except asyncio.CancelledError as problem:
                cancelled = problem
            else:
                task.cancel()  # which does nothing if it is done
    if cancelled is not None:
        raise cancelled


async def serve_endpoint(
    hub: Hub, connection: Connection, handler: Callback, values: tuple[str, ...]
) -> None:
    """Let an endpoint's handler have the connection."""
    async with Connected(hub, connection):
        _begin(connection)
        try:
            await handler(connection, None, None, *values)
        except Denied as denied:
            connection.start_close(CloseCode.FORBIDDEN, _shortened(denied.reason))


async def serve_session(
    hub: Hub,
    connection: Connection,
    subprotocol: str | None,
    *,
    hooks: Hooks,
    router: Router,
    rooms: Sequence[Rooms],
    inboxes: Rooms,
) -> None:
    """Speak hubbub's protocol on the connection."""
    memberships = Memberships(hub, connection, rooms, inboxes)
    connection.hold()
    async with Connected(hub, connection, subprotocol, memberships) as connected:
        if await _enter(connection, hooks, hub.settings, memberships):
            connected.on_disconnect = hooks.disconnect
            connection.on_lost = memberships.detach
            session = Session(hub, connection, router, memberships, hooks.log_in)
            try:
                if await session.open():
                    await Handling(connection, session).run()
            finally:
                ATTEMPT.set(None)


class _EndsWithLine:
    """Ends its body, by cancellation, as soon as the line is lost; nothing of that is raised.

    Otherwise a login that hangs would keep its place long after its client is gone.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._task = asyncio.current_task()
        self._ended = False
        self.called = True
        """Whether the hook in the body was called at all; it may have waited for a thread."""

    def __enter__(self) -> "_EndsWithLine":
        self._connection.on_lost = self._end
        return self

    def _end(self) -> None:
        assert self._task is not None
        self._ended = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._connection.on_lost = None
        if not self._ended or self._task is None or self._task.uncancel():
            # Whoever else cancelled the task has it so.
            return False
        self.called = problem is None or NOT_CALLED not in problem.args
        return isinstance(problem, asyncio.CancelledError)


async def _enter(connection: Connection, hooks: Hooks, settings: Settings, memberships: Memberships) -> bool:
    """Log the client in and tell the application; true if that knows of the client from now on.

    It does even if the line was lost while `on_connect` was running, so that `on_disconnect` can undo what
    that did.
    """
    if connection.lost:
        return False
    refusal = CloseCode.NOT_LOGGED_IN
    try:
        with _EndsWithLine(connection) as body:
            connection.user = await hooks.log_in(connection)
            refusal = CloseCode.FORBIDDEN
            connection.memberships = memberships
            if hooks.connect is not None:
                await hooks.connect(connection, None, None)
    except Denied as denied:
        connection.memberships = None  # nobody can come back to them
        failure = Failure(ErrorCode.DENIED, denied.reason, retry=False)
        connection.greet(Envelope("$error", data=failure))
        connection.start_close(refusal, _shortened(denied.reason))
        return False
    except Unavailable as problem:
        connection.memberships = None
        failure = Failure(ErrorCode.UNAVAILABLE, str(problem), ErrorCode.UNAVAILABLE.retry)
        connection.greet(Envelope("$error", data=failure))
        connection.start_close(CloseCode.TRY_AGAIN_LATER, "the broker can't be reached now")
        return False
    if refusal is CloseCode.NOT_LOGGED_IN or not body.called:
        return False
    connection.admit(settings)
    _begin(connection)
    return True


def _begin(connection: Connection) -> None:
    connection.watch.begin(asyncio.get_running_loop().time())
    address = connection.remote_address
    logger.info(
        "connect",
        extra=fields(
            connection=connection.id,
            user=connection.user,
            path=connection.scope["path"],
            peer=f"{address[0]}:{address[1]}" if address else None,
            codec=connection.subprotocol,
        ),
    )


def _shortened(reason: str) -> str:
    # A close frame has room for 123 bytes (RFC 6455 section 5.5); the $error before it says all.
    return reason.encode()[:123].decode(errors="ignore")
