"""JetStream as this driver uses it: streams of room messages, and one of members, leases and the secret."""

import asyncio
import time
import zlib
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from ...errors import Unavailable
from ...observe.log import fields, logger
from .client import header, status
from .line import Line, Refused
from .options import Options

DAY = 86_400.0
"""Seconds that messages of rooms are kept at least, unless more are asked for."""
MOST_SUBJECTS = 100_000
REPLICATES = (2, 10)
"""Version from which servers check on replicated streams, too, what a message follows."""

_WRONG_SEQUENCE = (10071, 10164)
"""The second one does not say which is right: of several at once, another one was first."""
_NO_STREAM = 10059


class Stored(NamedTuple):
    """A message of a stream."""

    sequence: int
    data: bytes
    time: float


class Gone(Unavailable):
    """The stream is not there: somebody deleted it, or the server lost it."""


class NoJetStream(Unavailable):
    """Nobody answers to JetStream's requests."""


class WrongSequence(Exception):
    """Another message of the subject came first."""


class _Error(Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _State(Struct):
    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    subjects: dict[str, int] | None = None


class _Republish(Struct):
    src: str = ""
    dest: str = ""


class _Config(Struct):
    subjects: list[str] = []
    max_age: int = 0
    num_replicas: int = 1
    allow_direct: bool = False
    republish: _Republish | None = None


class Answer(Struct):
    """What JetStream answers to requests, as far as it is of interest here."""

    error: _Error | None = None
    seq: int = 0
    success: bool = False
    created: str = ""
    total: int = 0
    config: _Config | None = None
    state: _State | None = None
    message: "_Message | None" = None


class _Message(Struct):
    seq: int
    time: str = ""
    data: bytes = b""


_decode = msgspec.json.Decoder(Answer).decode
_encode = msgspec.json.Encoder().encode


class Streams:
    """The streams of a prefix; their names begin with it, as all subjects do."""

    def __init__(
        self, line: Line, options: Options, window: float, clock: Callable[[], float] | None = None
    ) -> None:
        self._line = line
        self._options = options
        self.prefix = options.prefix
        self.members = f"{options.prefix}-presence"
        self.rooms = [f"{options.prefix}-rooms-{number}" for number in range(options.shards)]
        self.life: dict[str, str] = {}
        """When each stream was made: one that was made anew has forgotten everything."""
        self._ages: dict[str, float] = {}
        self._direct: dict[str, bool] = {}
        self._least_age = max(DAY, 2 * window)
        self._ahead = 0.0
        self._clock = clock

    # Time

    def now(self) -> float:
        """Return the time in seconds by the server's clock, as it was last read."""
        return time.monotonic() + self._ahead if self._clock is None else self._clock()

    async def read_clock(self) -> None:
        """Find out what time it is at the server."""
        subject = f"{self.prefix}.clock"
        before = time.monotonic()
        await self.append(subject, b"", None)
        # Perhaps another instance's by now, but stored after ours.
        stored = await self.last(self.members, subject)
        if stored is None:
            raise Gone(f"The stream {self.members} on NATS was emptied.")
        self._ahead = stored.time - (before + time.monotonic()) / 2

    # Streams

    def shard(self, room: str) -> int:
        """Return which stream a room is in."""
        return zlib.crc32(room.encode(errors="surrogatepass")) % len(self.rooms)

    async def ensure(self) -> list[str]:
        """Make the streams that there are not; return which of those known were made anew.

        :exc:`hubbub.errors.ConfigurationError` if the server can't have them.
        """
        prefix, options = self.prefix, self._options
        try:
            await self.look(self.members)
        except Gone:
            pass
        except NoJetStream:
            if self._line.has_jetstream:
                raise
            raise Refused(
                "The NATS server has no JetStream. Start it with -js, or allow it for the account."
            ) from None
        answers = await asyncio.gather(
            self._ensure(
                self.members,
                subjects=[f"{prefix}.{kind}" for kind in ("presence.>", "lease.*", "secret", "clock")],
                max_age=0,
                max_bytes=-1,
                max_msgs_per_subject=1,
                republish=None,
            ),
            *(
                self._ensure(
                    name,
                    subjects=[f"{prefix}.room.{number}.>", f"{prefix}.part.{number}.>"],
                    max_age=_nanoseconds(self._least_age),
                    max_bytes=max(options.max_bytes // options.shards, 2**20),
                    max_msgs_per_subject=-1,
                    republish={"src": f"{prefix}.room.{number}.>", "dest": f"{prefix}.live.{number}.>"},
                )
                for number, name in enumerate(self.rooms)
            ),
        )
        anew = []
        for name, answer in answers:
            if self.life.setdefault(name, answer.created) != answer.created:
                self.life[name] = answer.created
                anew.append(name)
        return anew

    async def _ensure(self, name: str, **settings: object) -> tuple[str, Answer]:
        answer = await self.ask(f"STREAM.INFO.{name}")
        if answer.error is not None and answer.error.err_code == _NO_STREAM:
            self._check_replicas(self._options.replicas)
            config: dict[str, object] = {
                "name": name,
                "retention": "limits",
                "storage": "file",
                "discard": "old",
                "max_msgs": -1,
                "max_consumers": -1,
                "num_replicas": self._options.replicas,
                "duplicate_window": 10**9,
                "allow_direct": True,
                **settings,
            }
            if config["republish"] is None:
                del config["republish"]
            answer = await self.ask(f"STREAM.CREATE.{name}", config)
            if answer.error is not None:
                # Another instance may have been faster, or there is a reason.
                why = answer.error.description
                answer = await self.ask(f"STREAM.INFO.{name}")
                if answer.error is not None:
                    raise Refused(
                        f"NATS can't make the stream {name}: {why}. Correct replicas or max_bytes in the "
                        "setting broker, or the server's limits."
                    )
        if answer.error is not None:
            if answer.error.code == 503:
                raise Unavailable(f"JetStream does not answer: {answer.error.description}.")
            raise Refused(f"NATS does not let us use JetStream: {answer.error.description}.")
        config_there = answer.config
        if (
            config_there is None
            or set(config_there.subjects) != set(settings["subjects"])  # type: ignore[call-overload]
            or bool(config_there.republish) != bool(settings["republish"])
        ):
            raise Refused(
                f"The stream {name} on NATS was not made by this version of hubbub, or the server is older "
                "than 2.9. Use another prefix, or a newer server."
            )
        self._check_replicas(config_there.num_replicas)
        self._direct[name] = config_there.allow_direct and config_there.num_replicas == 1
        self._ages[name] = config_there.max_age / 1e9 or float("inf")
        return name, answer

    def _check_replicas(self, replicas: int) -> None:
        if replicas > 1 and self._line.version < REPLICATES:
            raise Refused(
                "Before 2.10, NATS servers may store two messages where only one may follow. Use newer ones, "
                "or replicas=1 in the setting broker."
            )

    async def look(self, name: str) -> Answer:
        """Return how a stream is; :exc:`Gone` if there is none."""
        answer = await self.ask(f"STREAM.INFO.{name}")
        if answer.error is not None:
            raise Gone(f"The stream {name} on NATS is gone.")
        return answer

    async def widen(self, name: str, age: float) -> None:
        """Have messages kept for `age` seconds at least."""
        request = self._line.request(f"$JS.API.STREAM.INFO.{name}", b"")
        config = msgspec.json.decode((await request).data).get("config")
        if config is None:
            raise Gone(f"The stream {name} on NATS is gone.")
        wanted = 0 if age == float("inf") else _nanoseconds(age)
        if config["max_age"] and (not wanted or config["max_age"] < wanted):
            config["max_age"] = wanted
            answer = await self.ask(f"STREAM.UPDATE.{name}", config)
            if answer.error is not None:
                raise Unavailable(f"NATS does not keep messages for longer: {answer.error.description}.")
        self._ages[name] = config["max_age"] / 1e9 or float("inf")

    def age(self, name: str) -> float:
        """Return for how many seconds a stream keeps messages."""
        return self._ages.get(name, self._least_age)

    # Messages

    def append_soon(self, subject: str, payload: bytes, expected: int | None) -> asyncio.Future[Msg]:
        """Store a message, if the subject's last one is `expected` (0: none; None: whichever)."""
        headers = b"" if expected is None else b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % expected
        return self._line.request(subject, payload, headers)

    async def append(self, subject: str, payload: bytes, expected: int | None) -> int:
        """Do that, and return the message's sequence; :exc:`WrongSequence` if another one is the last."""
        return sequence_of(await self.append_soon(subject, payload, expected))

    async def last(self, stream: str, subject: str) -> Stored | None:
        """Return a subject's newest message."""
        if self._direct.get(stream, True):
            return _direct(await self._line.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b""))
        # Any replica answers a direct get, also one that has not heard of the newest.
        return _asked(await self.ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}))

    async def get(self, stream: str, sequence: int) -> Stored | None:
        """Return one message."""
        if self._direct.get(stream, True):
            request = b'{"seq":%d}' % sequence
            return _direct(await self._line.request(f"$JS.API.DIRECT.GET.{stream}", request))
        return _asked(await self.ask(f"STREAM.MSG.GET.{stream}", {"seq": sequence}))

    async def delete(self, stream: str, sequence: int) -> bool:
        """Remove one message; tell whether it was still there."""
        request = {"seq": sequence, "no_erase": True}
        answer = await self.ask(f"STREAM.MSG.DELETE.{stream}", request)
        return answer.error is None and answer.success

    async def purge(self, stream: str, subject: str, before: int) -> None:
        """Remove a subject's messages whose sequence is lower than `before`."""
        await self.ask(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": before})

    async def subjects(self, stream: str, pattern: str) -> list[str]:
        """Return the subjects that have a message."""
        found: list[str] = []
        while True:
            request = {"subjects_filter": pattern, "offset": len(found)}
            answer = await self.ask(f"STREAM.INFO.{stream}", request)
            if answer.error is not None:
                raise Gone(f"The stream {stream} on NATS is gone.")
            page = answer.state.subjects if answer.state is not None else None
            found += page or ()
            if not page or len(page) < MOST_SUBJECTS:
                return found

    async def ask(self, name: str, request: object = None) -> Answer:
        """Return JetStream's answer to a request."""
        payload = b"" if request is None else _encode(request)
        message = await self._line.request(f"$JS.API.{name}", payload)
        if status(message) == "503":
            raise NoJetStream("JetStream does not answer.")
        return _understood(message)


def sequence_of(message: Msg) -> int:
    """Return under which sequence a message was stored."""
    if status(message) == "503":
        raise Gone("No stream on NATS takes the message.")
    answer = _understood(message)
    if answer.error is None:
        return answer.seq
    if answer.error.err_code in _WRONG_SEQUENCE:
        raise WrongSequence(answer.error.description)
    raise Unavailable(f"NATS can't store the message: {answer.error.description}.")


def _understood(message: Msg) -> Answer:
    try:
        return _decode(message.data)
    except msgspec.DecodeError:
        raise Unavailable("NATS gave an answer that can't be read.") from None


def _direct(message: Msg) -> Stored | None:
    if status(message) == "404":
        return None
    sequence, moment = header(message, b"Nats-Sequence"), header(message, b"Nats-Time-Stamp")
    try:
        if sequence is not None and moment is not None:
            return Stored(int(sequence), message.data, _seconds(moment))
    except ValueError:
        logger.warning("broker", extra=fields(broker="nats", during="reading", unreadable="headers"))
    raise Gone("NATS gave no message of the stream.")


def _asked(answer: Answer) -> Stored | None:
    if answer.error is None and answer.message is not None:
        return Stored(answer.message.seq, answer.message.data, _seconds(answer.message.time))
    if answer.error is not None and answer.error.err_code == 10037:
        return None
    raise Gone("NATS gave no message of the stream.")


def _seconds(moment: str) -> float:
    """Return a time as Go writes it (with up to nine digits) in seconds."""
    whole, _, rest = moment.rstrip("Z").partition(".")
    digits = rest.partition("+")[0]
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{digits or 0}")


def _nanoseconds(seconds: float) -> int:
    return min(int(seconds * 1e9), 2**62)
