"""Sessions: which connection each is on, the tokens that take them up on another, and what was answered."""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from ..brokers.base import Broker, Entry, History, Retention
from ..errors import InvalidMessage, Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, pack
from ..protocol.codes import ErrorCode
from ..protocol.envelope import Position
from ..protocol.resume import Claims, Refused, sign, verify
from ..settings import Settings
from .answers import Answers
from .connection import Connection, Rank
from .control import Moved, send
from .shared import SharedRequest

MAX_ANSWERS_OF_ENDED = 20_000
"""Answers remembered of all sessions that are on no connection; the longest ended are forgotten first."""

RECORDS = 8
"""Messages kept in a session's own room: connections that may take it up at once, and all get to know it."""


class _Turn(msgspec.Struct, frozen=True, array_like=True):
    """A message in a session's own room: with a token of which turn it was taken up, and where."""

    used: int
    instance: str
    revoked: bool = False
    """Whether it was not taken up, but its tokens from before are void."""
    attempt: int = 0
    """Which of the client's attempts with this token it was; 0 where the client does not say."""


class _Taken(NamedTuple):
    """A session as a connection has it."""

    session: str
    turn: int
    rank: Rank


class _Outranked(Exception):
    """The session goes on on another connection, or the one that asked for it has ended."""


_unpack_turn = msgspec.msgpack.Decoder(_Turn).decode


class Sessions:
    """All sessions of this process: those on a connection, and for a while what was answered in others.

    A session is taken up with a token. The broker keeps, in a room of the session's own, with which token
    that was done last. So all instances know it, a token can't be used once its successor was, and of two
    connections the one of the higher rank wins: with the newer token, with the client's later attempt to
    use it, or, where that is not known, the one that came later.
    """

    def __init__(self, settings: Settings) -> None:
        self._lifetime = settings.session_lifetime
        self._window = settings.deduplication_window
        self._patience = settings.broker_timeout
        self._broker: Broker | None = None
        self._secret = b""
        self._previous = b""
        """The secret of before the broker was emptied, if it was."""
        self._doubtful = False
        self._secret_request = SharedRequest(self._ask, "hubbub: secret of sessions")
        self.connections: dict[str, Connection] = {}
        """Connections that speak hubbub's protocol, by the id of their session."""
        self._displaced: dict[Connection, list[Connection]] = {}
        """By the connection that is about to take a session up: those here that have to go when it does."""
        self._answers: dict[str, Answers] = {}
        self._ended: OrderedDict[str, tuple[float, int, Answers]] = OrderedDict()
        """Answers in sessions whose connection has ended: until when they are of use, how many, and they."""
        self._ended_count = 0

    def start(self, broker: Broker) -> None:
        """Sign with the secret of this broker, and record there who took a session up."""
        self._broker = broker
        self._secret = self._previous = b""
        self._doubtful = False

    async def stop(self) -> None:
        """Ask the broker for nothing any more."""
        await self._secret_request.stop()

    async def prepare(self) -> None:
        """Know the secret, which comes before any token; :exc:`Unavailable` if the broker can't tell it.

        It is asked for when it is first needed, so that a hub can start before its broker. All who wait for
        it share one request.
        """
        while not self._secret:
            await self._secret_request.made()

    def doubt_secret(self) -> None:
        """Take note that the broker was emptied, perhaps, and that others may have another secret by now."""
        self._doubtful = bool(self._secret)

    async def renew_secret(self) -> None:
        """Sign with the broker's secret again, where it is in doubt; tokens from before stay of use here."""
        assert self._broker is not None
        if self._doubtful:
            secret = await self._broker.secret()
            self._doubtful = False
            if not hmac.compare_digest(secret, self._secret):
                self._secret, self._previous = secret, self._secret

    def _verified(self, token: str) -> Claims:
        now = wall_time()
        try:
            return verify(token, self._secret, now)
        except Refused:
            if not self._previous:
                raise
            return verify(token, self._previous, now)

    async def _ask(self) -> None:
        assert self._broker is not None
        try:
            async with asyncio.timeout(self._patience):
                self._secret = await self._broker.secret()
        except TimeoutError:
            raise Unavailable(f"The broker did not answer within {self._patience:g} s.") from None

    # Which connection a session is on

    def begin(self, connection: Connection) -> None:
        """Note that a session begins on a connection."""
        self.connections[connection.session] = connection

    def end(self, connection: Connection) -> None:
        """Note that a connection has ended; its session may go on elsewhere."""
        if self.connections.get(connection.session) is connection:
            self._end(connection.session)

    def _end(self, session: str) -> None:
        del self.connections[session]
        answers = self._answers.pop(session, None)
        if answers is not None:
            now = asyncio.get_running_loop().time()
            count = len(answers)
            self._ended[session] = now + self._window, count, answers
            self._ended_count += count
            while self._ended_count > MAX_ANSWERS_OF_ENDED or next(iter(self._ended.values()))[0] < now:
                self._ended_count -= self._ended.popitem(last=False)[1][1]

    def token(self, connection: Connection) -> str:
        """Return the token with which the connection's session can be taken up again."""
        assert self._broker is not None
        expires = wall_time() + self._lifetime
        instance = self._broker.instance
        claims = Claims(connection.session, connection.user, connection.turn, instance, expires)
        return sign(claims, self._secret)

    async def take_up(self, token: str, attempt: int, connection: Connection) -> None:
        """Have a token's session go on on this connection; the one it was on is closed with 4409.

        `attempt` is how often the client has tried that. An attempt whose line died without a word may be
        handled later than the one that came after it; then its own connection is closed with 4409.

        Raises :exc:`InvalidMessage` for a token that is forged, expired, of another user, or older than one
        that was used already; :exc:`Unavailable` if the broker can't be reached; :exc:`ConnectionClosed` if
        the connection has ended meanwhile. With all of these the session stays where it was.
        """
        try:
            claims = self._verified(token)
            if claims.user != connection.user:
                raise Refused("of another user")
            before = await self._history(claims.session, None)
            turns = [_turn_of(entry) for entry in before.entries]
            if any((claims.turn, attempt) < (turn.used, turn.attempt) for turn in turns):
                raise Refused("replayed")
            # Whoever asked may have left meanwhile, and have the session on another connection: that stays.
            await connection.raise_if_closed()
            offset = await self._record(claims.session, claims.turn, attempt)
            await connection.raise_if_closed()
            # The turn grows with each time, also where the record of those before is too old to be there.
            taken = _Taken(claims.session, claims.turn + offset, (claims.turn, attempt, offset))
            instances = {claims.instance, *(turn.instance for turn in turns)}
            with self._carried_by(connection, taken):
                await self._look_again(connection, taken, before.position, instances)
        except Refused as refused:
            # The client is told nothing that would help to make a better one.
            logger.info("resume", extra=fields(connection=connection.id, refused=str(refused)))
            raise InvalidMessage("The session can't be taken up.", code=ErrorCode.SESSION_REFUSED) from None
        except _Outranked:
            connection.replaced()
            await connection.raise_if_closed()
        logger.info(
            "resume",
            extra=fields(connection=connection.id, user=connection.user, session=claims.session[:8]),
        )

    @contextmanager
    def _carried_by(self, connection: Connection, taken: "_Taken") -> Iterator[None]:
        """Have a session be on a connection; where it was until then is closed if the body succeeds.

        If it fails, the session is there again, and the connection has the one that it began.
        """
        session, own = taken.session, _Taken(connection.session, connection.turn, connection.rank)
        self.end(connection)  # it may resume the session that it began
        previous = self.connections.get(session)
        if previous is not None and previous.rank > taken.rank:
            raise _Outranked
        displaced = [] if previous is None else [previous, *self._displaced.get(previous, ())]
        connection.session, connection.turn, connection.rank = taken
        self.connections[session] = connection
        self._displaced[connection] = displaced
        try:
            yield
        except BaseException:
            connection.session, connection.turn, connection.rank = own
            if self.connections.get(session) is connection:
                self._go_back(session, displaced)
            if not connection.closing:
                self.begin(connection)
            raise
        finally:
            del self._displaced[connection]
        for before in displaced:
            if before.session == session:
                before.replaced()

    def _go_back(self, session: str, displaced: list[Connection]) -> None:
        for before in displaced:
            # One that was taking it up as well may have failed by now.
            if before.session == session and not before.closing:
                self.connections[session] = before
                return
        self._end(session)

    async def _look_again(
        self, connection: Connection, taken: "_Taken", since: Position, instances: set[str]
    ) -> None:
        """See who else takes the session up, and tell all who may have it that it is here.

        The connection is registered already. So whoever records after this look that it takes the session up
        finds this one's record, and has it told here; all others are found now.
        """
        broker = self._broker
        assert broker is not None
        for entry in (await self._history(taken.session, since)).entries:
            turn = _turn_of(entry)
            instances.add(turn.instance)
            if not turn.revoked and (turn.used, turn.attempt, entry.offset or 0) > taken.rank:
                raise _Outranked
        if connection.closing:
            raise _Outranked
        moved = Moved(taken.session, taken.rank)
        # Here too there may be others: those that were replaced before are still closing.
        for instance in instances - {broker.instance}:
            await send(broker, instance, moved)

    async def revoke(self, connection: Connection) -> None:
        """Let the tokens that the connection was given so far be of no use: its session is a user's now."""
        connection.turn += 1
        await self._record(connection.session, connection.turn, revoked=True)

    def moved(self, moved: Moved) -> None:
        """Take from another instance that a session is there now."""
        connection = self.connections.get(moved.session)
        if connection is not None:
            for one in (connection, *self._displaced.get(connection, ())):
                if one.session == moved.session and one.rank < moved.rank:
                    one.replaced()

    async def _history(self, session: str, since: Position | None) -> History:
        assert self._broker is not None
        return await self._broker.history(_room_of(session), since, RECORDS)

    async def _record(self, session: str, used: int, attempt: int = 0, *, revoked: bool = False) -> int:
        """Note at the broker that a session was taken up, or its tokens revoked; return how often that is."""
        assert self._broker is not None
        position = await self._broker.publish(
            _room_of(session),
            pack(_Turn(used, self._broker.instance, revoked, attempt)),
            sender=None,
            key=None,
            keep=Retention(RECORDS, self._lifetime),
        )
        return position.offset

    # What was answered

    def answers(self, connection: Connection) -> Answers:
        """Return where answers on a connection are remembered; ask once for each."""
        session = connection.session
        before = self._answers.get(session)
        if before is None and session in self._ended:
            _, count, before = self._ended.pop(session)
            self._ended_count -= count
        assert connection.form is not None
        answers = self._answers[session] = Answers(connection.form.codec, before)
        return answers


def _turn_of(entry: Entry) -> _Turn:
    try:
        return _unpack_turn(entry.payload)
    except UNREADABLE:
        raise Refused("of a session whose record can't be read") from None


def _room_of(session: str) -> str:
    return f"$session/{session}"


def wall_time() -> float:
    """Return the Unix time in seconds; where a test moves the event loop's time, it is moved along."""
    return time.time() + asyncio.get_running_loop().time() - time.monotonic()
