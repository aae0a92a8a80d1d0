"""Answers that a session's requests were given, for those that are sent again."""

from ..protocol.codecs import Codec
from ..protocol.envelope import MessageId

MAX_ANSWERS = 8
"""Answers on a connection that are remembered at least; twice as many at the most.

With many more, those of all connections together are too much for the processor's cache, and every echo takes
longer by a twentieth.
"""

LARGEST_ANSWER = 4096
"""Bytes of an answer that is remembered; the request behind a larger one is carried out again."""

EARLIER = 2
"""Connections before the session's present one whose answers are remembered."""


class Answers:
    """The newest answers on a session's connection, encoded, and those on earlier connections.

    In two halves: the older one is forgotten as a whole, since to take the oldest out of one dictionary time
    and again is slow. Encoded, since the garbage collector would look at other objects again and again.
    """

    __slots__ = ("codec", "earlier", "newer", "older")

    def __init__(self, codec: Codec, before: "Answers | None" = None) -> None:
        self.codec = codec
        self.newer: dict[MessageId, bytes] = {}
        self.older: dict[MessageId, bytes] = {}
        self.earlier: tuple[Answers, ...] = ()
        """Those on earlier connections, the latest first. A handler there may still be about to answer."""
        if before is not None:
            self.earlier = (before, *before.earlier)[:EARLIER]
            before.earlier = ()

    def __len__(self) -> int:
        return len(self.newer) + len(self.older) + sum(map(len, self.earlier))

    def earlier_one(self, request: MessageId) -> bytes | None:
        """Return what that request was answered on an earlier connection, if that is of use on this one."""
        for answers in self.earlier:
            answer = answers.newer.get(request) or answers.older.get(request)
            if answer is not None:
                return answer if answers.codec is self.codec else None
        return None

    def add(self, request: MessageId, answer: bytes) -> None:
        """Remember an answer."""
        if len(self.newer) >= MAX_ANSWERS:
            self.older, self.newer = self.newer, {}
        self.newer[request] = answer
