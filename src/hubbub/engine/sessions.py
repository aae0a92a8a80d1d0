"""Sessions: which connection each is on, the tokens that take them up on another, and what was answered."""

import asyncio
import time
from collections import OrderedDict

import msgspec

from ..brokers.base import Broker, Entry, History, Retention
from ..errors import InvalidMessage
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, pack
from ..protocol.codes import ErrorCode
from ..protocol.envelope import Position
from ..protocol.resume import Claims, Refused, sign, verify
from ..settings import Settings
from .answers import Answers
from .connection import Connection

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


class _Moved(msgspec.Struct, frozen=True, array_like=True):
    """What an instance tells another: a session is here now, connections of an older turn have to go."""

    session: str
    turn: int


_unpack_turn = msgspec.msgpack.Decoder(_Turn).decode
_unpack_moved = msgspec.msgpack.Decoder(_Moved).decode


class Sessions:
    """All sessions of this process: those on a connection, and for a while what was answered in others.

    A session is taken up with a token. The broker keeps, in a room of the session's own, with which token
    that was done last. So all instances know it, a token can't be used once its successor was, and of two
    connections the one that came later wins.
    """

    def __init__(self, settings: Settings) -> None:
        self._lifetime = settings.session_lifetime
        self._window = settings.deduplication_window
        self._broker: Broker | None = None
        self._secret = b""
        self.connections: dict[str, Connection] = {}
        """Connections that speak hubbub's protocol, by the id of their session."""
        self._answers: dict[str, Answers] = {}
        self._ended: OrderedDict[str, tuple[float, int, Answers]] = OrderedDict()
        """Answers in sessions whose connection has ended: until when they are of use, how many, and they."""
        self._ended_count = 0

    async def start(self, broker: Broker) -> None:
        """Sign with the secret of this broker, and record there who took a session up."""
        self._secret = await broker.secret()
        self._broker = broker

    # Which connection a session is on

    def begin(self, connection: Connection) -> None:
        """Note that a session begins on a connection."""
        self.connections[connection.session] = connection

    def end(self, connection: Connection) -> None:
        """Note that a connection has ended; its session may go on elsewhere."""
        session = connection.session
        if self.connections.get(session) is not connection:
            return
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
        expires = _wall_time() + self._lifetime
        instance = self._broker.instance
        claims = Claims(connection.session, connection.user, connection.turn, instance, expires)
        return sign(claims, self._secret)

    async def take_up(self, token: str, connection: Connection) -> None:
        """Have a token's session go on on this connection; the one it was on is closed with 4409.

        Raises :exc:`InvalidMessage` for a token that is forged, expired, of another user, or older than one
        that was used already; :exc:`Unavailable` if the broker can't be reached; :exc:`ConnectionClosed` if
        the connection has ended meanwhile.
        """
        broker = self._broker
        assert broker is not None
        try:
            claims = verify(token, self._secret, _wall_time())
            if claims.user != connection.user:
                raise Refused("of another user")
            before = await self._history(claims.session, None)
            turns = [_turn_of(entry) for entry in before.entries]
            if any(claims.turn < turn.used for turn in turns):
                raise Refused("replayed")
        except Refused as refused:
            # The client is told nothing that would help to make a better one.
            logger.info("resume", extra=fields(connection=connection.id, refused=str(refused)))
            raise InvalidMessage("The session can't be taken up.", code=ErrorCode.SESSION_REFUSED) from None
        # Whoever asked may have left meanwhile, and have the session on another connection: that one stays.
        await connection.raise_if_closed()
        offset = await self._record(claims.session, claims.turn)
        await connection.raise_if_closed()
        self.end(connection)
        previous = self.connections.get(claims.session)
        # Grows with each time, also where the record of those before is too old to be there still.
        connection.session, connection.turn = claims.session, claims.turn + offset
        if previous is not None and previous.turn > connection.turn:
            connection.replaced()
        else:
            self.connections[claims.session] = connection
            if previous is not None:
                previous.replaced()
        # Also where there was one here: it may have been replaced before, and still be closing.
        elsewhere = {turns[-1].instance if turns else claims.instance}
        for entry in (await self._history(claims.session, before.position)).entries:
            # Others may have taken it up at the same time, and not know of this one.
            turn = _turn_of(entry)
            elsewhere.add(turn.instance)
            if entry.offset is not None and entry.offset > offset and not turn.revoked:
                connection.replaced()
        for instance in elsewhere - {broker.instance}:
            await broker.send_control(instance, pack(_Moved(claims.session, connection.turn)))
        logger.info(
            "resume",
            extra=fields(connection=connection.id, user=connection.user, session=claims.session[:8]),
        )

    async def revoke(self, connection: Connection) -> None:
        """Let the tokens that the connection was given so far be of no use: its session is a user's now."""
        connection.turn += 1
        await self._record(connection.session, connection.turn, revoked=True)

    def control(self, payload: bytes) -> None:
        """Take what another instance says to this one."""
        try:
            moved = _unpack_moved(payload)
        except UNREADABLE:
            logger.warning("error", extra=fields(during="control message", size=len(payload)))
            return
        connection = self.connections.get(moved.session)
        if connection is not None and connection.turn < moved.turn:
            connection.replaced()

    async def _history(self, session: str, since: Position | None) -> History:
        assert self._broker is not None
        return await self._broker.history(_room_of(session), since, RECORDS)

    async def _record(self, session: str, used: int, *, revoked: bool = False) -> int:
        """Note at the broker that a session was taken up, or its tokens revoked; return how often that is."""
        assert self._broker is not None
        position = await self._broker.publish(
            _room_of(session),
            pack(_Turn(used, self._broker.instance, revoked)),
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


def _wall_time() -> float:
    """Return the Unix time in seconds; where a test moves the event loop's time, it is moved along."""
    return time.time() + asyncio.get_running_loop().time() - time.monotonic()
