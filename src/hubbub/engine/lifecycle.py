"""A connection's life: handshake, login, its messages, and the clean-up that always runs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..errors import ConfigurationError, ConnectionClosed, Denied
from ..observe.log import correlation_id, fields, logger
from ..protocol.codes import CloseCode, ErrorCode
from ..protocol.envelope import Envelope, Failure
from .callback import Callback
from .connection import Connection
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


@asynccontextmanager
async def connected(hub: Hub, connection: Connection, subprotocol: str | None) -> AsyncIterator[None]:
    """Keep a connection registered and watched while the body serves it; close it in the end."""
    correlation_id.set(connection.correlation_id)
    loop = asyncio.get_running_loop()
    began = loop.time()
    hub.connections[connection.id] = connection
    code, reason = CloseCode.NORMAL, ""
    try:
        await connection.transport.accept(connection, subprotocol)
        yield
    except ConnectionClosed as closed:
        if not connection.closing:
            # It is of another connection, which the application talked to.
            code, reason = CloseCode.INTERNAL_ERROR, "internal error"
            logger.error("error", exc_info=closed, extra=fields(connection=connection.id))
    except Exception as problem:
        code, reason = CloseCode.INTERNAL_ERROR, "internal error"
        logger.error("error", exc_info=problem, extra=fields(connection=connection.id))
    except asyncio.CancelledError:
        connection.transport.abort()
        raise
    finally:
        try:
            connection.start_close(code, reason)
            await connection.wait_closed()
        finally:
            del hub.connections[connection.id]
            ended, why = connection.why_ended
            logger.info(
                "disconnect",
                extra=fields(
                    connection=connection.id,
                    user=connection.user,
                    code=ended,
                    reason=why or None,
                    duration=loop.time() - began,
                    messages_in=connection.messages_in,
                    messages_out=connection.outbox.written,
                ),
            )


async def serve_endpoint(
    hub: Hub, connection: Connection, handler: Callback, values: tuple[str, ...]
) -> None:
    """Let an endpoint's handler have the connection."""
    async with connected(hub, connection, None):
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
    connection.on_lost = memberships.detach
    connection.hold()
    entered = False
    async with connected(hub, connection, subprotocol):
        hub.sessions[connection.session] = connection
        try:
            if await _enter(connection, hooks):
                entered = True
                await Session(hub, connection, router, memberships, hooks.log_in).run()
        finally:
            del hub.sessions[connection.session]
            await memberships.leave_all()
            if entered and hooks.disconnect is not None:
                await hooks.disconnect(connection, None, None)


async def _enter(connection: Connection, hooks: Hooks) -> bool:
    refusal = CloseCode.NOT_LOGGED_IN
    try:
        connection.user = await hooks.log_in(connection)
        refusal = CloseCode.FORBIDDEN
        if hooks.connect is not None:
            await hooks.connect(connection, None, None)
    except Denied as denied:
        failure = Failure(ErrorCode.DENIED, denied.reason, retry=False)
        connection.greet(Envelope("$error", data=failure))
        connection.start_close(refusal, _shortened(denied.reason))
        return False
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
            path=connection.request.url.path,
            peer=f"{address[0]}:{address[1]}" if address else None,
            codec=connection.subprotocol,
        ),
    )


def _shortened(reason: str) -> str:
    # A close frame has room for 123 bytes (RFC 6455 section 5.5); the $error before it says all.
    return reason.encode()[:123].decode(errors="ignore")
