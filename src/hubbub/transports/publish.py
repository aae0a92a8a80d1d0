"""``POST /api/publish``: messages from programs that are no clients, in any language, over HTTP.

It is there if the setting `api_keys` is. A request is known by its key before its body is read, and a body is
read up to its limit and for so long as a login may take. Answers are JSON; what is refused is answered with
the data of an ``$error`` (:class:`..protocol.envelope.Failure`).
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from ..brokers.base import Retention
from ..engine.hub import Hub
from ..engine.room import Rooms
from ..errors import ConfigurationError, InvalidMessage, Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import JSON, UNREADABLE, invalid
from ..protocol.codes import ErrorCode
from ..protocol.envelope import ABSENT, Failure, Position, Problem, RoomName
from ..protocol.publications import MAX_KEY, inbox_of, outside_key, packed
from ..settings import Settings
from .admission import RETRY_AFTER, Refusal

SHORTEST_KEY = 16
"""Characters that an API key has at the least, so that nobody finds it by trying."""

NOT_KNOWN = Refusal(401, "api_keys", "Authorization is missing, or not Bearer with a key of this server's.")

Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]


class Outside(Struct, frozen=True, forbid_unknown_fields=True):
    """A message from outside, to a room or to a user."""

    type: Annotated[str, Meta(min_length=1, max_length=128)]
    data: Raw = ABSENT
    room: RoomName | None = None
    user: Annotated[str, Meta(min_length=1, max_length=249)] | None = None
    ephemeral: bool = False
    key: Key | None = None
    idempotency_key: Key | None = None


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Several of them, each left as it is until its turn."""

    messages: list[Raw]


class Results(Struct, frozen=True):
    """What became of each message of a batch, in its order: its position, or what failed."""

    results: list[object]


class Prepared(NamedTuple):
    """A message that is ready to be published."""

    room: str
    payload: bytes
    key: str | None
    keep: Retention | None


class Outcome(NamedTuple):
    """What became of a message, or of a request: an HTTP status, and what to say."""

    status: int
    told: Position | Failure | Results


class APIKeys:
    """The keys by which programs are known; :exc:`ConfigurationError` for one that can't be."""

    def __init__(self, setting: str) -> None:
        keys = [part.strip() for part in setting.split(",") if part.strip()]
        for key in keys:
            if len(key) < SHORTEST_KEY or not all("!" <= character <= "~" for character in key):
                raise ConfigurationError(
                    f"api_keys has a key that is shorter than {SHORTEST_KEY} characters, or has others than "
                    "ASCII's printable ones. Make one with: openssl rand -hex 32."
                )
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def know(self, authorization: str) -> bool:
        """Tell whether an ``Authorization`` header has one of the keys, in the same time whichever it has."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        digest = _digest(key.strip().encode("latin-1"))
        # All of them, and not only up to the first that fits.
        return sum([hmac.compare_digest(digest, known) for known in self._digests]) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class PublishEndpoint:
    """Publishes what programs send to `rooms`, which may still be added to, and to users' `inboxes`.

    `ready` starts the hub if need be, and tells whether it takes messages now. `refused` is told of requests
    without a key.
    """

    def __init__(
        self,
        hub: Hub,
        rooms: Sequence[Rooms],
        inboxes: Rooms,
        settings: Settings,
        *,
        ready: Callable[[], Awaitable[bool]],
        refused: Callable[[Refusal, Request], None],
    ) -> None:
        self._hub = hub
        self._rooms = rooms
        self._inboxes = inboxes
        self._settings = settings
        self._keys = APIKeys(settings.api_keys)
        self._ready = ready
        self._refused = refused

    @property
    def routes(self) -> list[Route]:
        """The routes to it; none without a key."""
        if not self._keys:
            return []
        return [
            Route("/api/publish", self._one, methods=["POST"]),
            Route("/api/publish/batch", self._batch, methods=["POST"]),
        ]

    async def outcome(self, scope: Scope, body: bytes) -> Outcome:
        """Publish what came otherwise than over HTTP; `scope` and `body` are like a request's."""
        request = Request(scope)
        if not self._keys.know(request.headers.get("authorization", "")):
            self._refused(NOT_KNOWN, request)
            return _failed(401, "unauthorized", NOT_KNOWN.sentence)
        if not await self._ready():
            return _failed(503, ErrorCode.UNAVAILABLE, "The server restarts.", retry=True)
        prepared = self._prepare(body, None)
        return await self._publish(prepared) if isinstance(prepared, Prepared) else prepared

    async def _one(self, request: Request) -> Response:
        body = await self._body(request, self._settings.max_message)
        if isinstance(body, Response):
            return body
        prepared = self._prepare(body, request.headers.get("idempotency-key"))
        return _answer(await self._publish(prepared) if isinstance(prepared, Prepared) else prepared)

    async def _batch(self, request: Request) -> Response:
        body = await self._body(request, self._settings.max_batch_bytes)
        if isinstance(body, Response):
            return body
        if "idempotency-key" in request.headers:
            # By their places? In a batch that is sent again without what was published they are others.
            return _answer(
                _failed(
                    422, ErrorCode.INVALID, "In a batch, give each message an idempotency_key of its own."
                )
            )
        try:
            messages = msgspec.json.decode(body, type=Batch).messages
        except UNREADABLE as problem:
            return _answer(_invalid(invalid("batch", problem)))
        limit = self._settings.max_batch
        if len(messages) > limit:
            return _answer(_failed(413, "too_large", f"A batch has at most {limit} messages."))
        return _answer(await self._publish_all(messages))

    # Reading

    async def _body(self, request: Request, limit: int) -> bytes | Response:
        """Return the body of a request that may be made; else the answer."""
        if not self._keys.know(request.headers.get("authorization", "")):
            self._refused(NOT_KNOWN, request)
            answer = _answer(_failed(401, "unauthorized", NOT_KNOWN.sentence))
            answer.headers["www-authenticate"] = "Bearer"
            return answer
        media, _, _ = request.headers.get("content-type", "").partition(";")
        if media.strip().lower() != "application/json":
            return _answer(_failed(415, "not_json", "Send Content-Type: application/json."))
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            return _answer(_failed(415, "not_json", "Send the body as it is, without Content-Encoding."))
        declared = request.headers.get("content-length", "")
        too_large = _failed(413, "too_large", f"The body may have {limit} bytes.")
        if declared.isdecimal() and (len(declared) > len(str(limit)) or int(declared) > limit):
            return _answer(too_large)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.handshake_timeout):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        return _answer(too_large)
        except (TimeoutError, ClientDisconnect):
            # To one that has gone, it is said to nobody.
            return _answer(_failed(408, "too_slow", "The body did not arrive in time.", retry=True))
        if not await self._ready():
            return _answer(_failed(503, ErrorCode.UNAVAILABLE, "The server restarts.", retry=True))
        return bytes(body)

    def _prepare(self, body: bytes, key: str | None) -> Prepared | Outcome:
        """Return a message as it is to be published, or what is wrong with it; `key` is the request's."""
        try:
            message = self._read(body)
            if key is not None and message.idempotency_key not in (None, key):
                raise InvalidMessage("The idempotency_key is another one than that of the header.")
            key = message.idempotency_key if key is None else key
            if message.user is not None:
                rooms, name = self._inboxes, inbox_of(message.user)
            else:
                name = message.room or ""
                found = next((rooms for rooms in self._rooms if rooms.match(name) is not None), None)
                # Names that start with $ are the protocol's own, also where a pattern begins with a part in
                # braces: sessions, bans and inboxes keep there what they know.
                if found is None or name.startswith("$"):
                    return _failed(404, ErrorCode.UNKNOWN_ROOM, "There is no such room.")
                rooms = found
            if message.key is not None:
                rooms.check_key(message.key)
            return Prepared(
                name,
                packed(message.type, _data_of(message, rooms), conflation_key=message.key),
                None if key is None else outside_key(key),
                None if message.ephemeral else rooms.retention,
            )
        except InvalidMessage as problem:
            return _invalid(problem)
        except (ValueError, ConfigurationError) as problem:
            return _failed(422, ErrorCode.INVALID, str(problem))
        except Exception:
            # An application's validator may raise anything.
            logger.exception("error", extra=fields(during="checking a message over HTTP"))
            return _failed(
                500, ErrorCode.INTERNAL, "The message can't be checked; the server's log has more."
            )

    def _read(self, body: bytes) -> Outside:
        if len(body) > self._settings.max_message:
            raise InvalidMessage(f"A message has at most {self._settings.max_message} bytes.")
        try:
            JSON.check_depth(body.decode(), self._settings.max_depth)
            message = msgspec.json.decode(body, type=Outside)
        except UNREADABLE as problem:
            raise invalid("message", problem) from None
        if message.type.startswith("$"):
            raise InvalidMessage(
                "Types that start with $ are the protocol's own.", [("$.type", "Starts with $")]
            )
        if (message.room is None) == (message.user is None):
            raise InvalidMessage("Say either room or user.")
        return message

    # Publishing

    async def _publish(self, message: Prepared) -> Outcome:
        room, payload, key, keep = message
        try:
            return Outcome(200, await self._hub.publish_from_outside(room, payload, key=key, keep=keep))
        except Unavailable as problem:
            return _failed(503, ErrorCode.UNAVAILABLE, str(problem), retry=True)
        except Exception:
            logger.exception("error", extra=fields(during="publishing over HTTP", room=room))
            return _failed(500, ErrorCode.INTERNAL, "Publishing failed; the server's log has more.")

    async def _publish_all(self, messages: Sequence[Raw]) -> Outcome:
        """Publish messages: a room's one after the other, and those of different rooms at the same time."""
        outcomes: list[Outcome] = []
        rooms: dict[str, list[tuple[int, Prepared]]] = {}
        for place, message in enumerate(messages):
            prepared = self._prepare(bytes(message), None)
            if isinstance(prepared, Prepared):
                rooms.setdefault(prepared.room, []).append((place, prepared))
                outcomes.append(NOT_TRIED)
            else:
                outcomes.append(prepared)
            await asyncio.sleep(0)  # so many take long, and others want their turn

        async def publish(queue: Iterable[tuple[int, Prepared]]) -> None:
            for place, message in queue:
                outcomes[place] = await self._publish(message)
                if outcomes[place].status == 503:
                    return  # what comes behind one that failed for now is not to overtake it

        async with asyncio.TaskGroup() as tasks:
            for queue in rooms.values():
                tasks.create_task(publish(queue), name="hubbub: publishing a batch")
        statuses = {outcome.status for outcome in outcomes}
        status = 503 if statuses == {503} else 200 if statuses <= {200} else 207
        return Outcome(status, Results([outcome.told for outcome in outcomes]))


def _data_of(message: Outside, rooms: Rooms) -> object:
    """Return what is to be sent: checked as a client's message of that type, where the room takes such."""
    handler = rooms.router.handlers.get(message.type)
    if handler is not None:
        return handler.decode(message.data, JSON)
    try:
        return msgspec.json.decode(message.data or JSON.empty)
    except UNREADABLE as problem:
        raise invalid(message.type, problem) from None


def _failed(
    status: int, code: str, message: str, *, retry: bool = False, errors: Sequence[Problem] = ()
) -> Outcome:
    return Outcome(status, Failure(str(code), message, retry, list(errors)))


def _invalid(problem: InvalidMessage) -> Outcome:
    errors = [Problem(path, what) for path, what in problem.problems]
    return _failed(422, problem.code, problem.message, errors=errors)


def _answer(outcome: Outcome) -> Response:
    answer = Response(msgspec.json.encode(outcome.told), outcome.status, media_type="application/json")
    if outcome.status == 503:
        answer.headers["retry-after"] = str(RETRY_AFTER)
    return answer


NOT_TRIED = _failed(
    503, ErrorCode.UNAVAILABLE, "One before it in its room could not be published now.", retry=True
)
