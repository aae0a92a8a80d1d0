"""What is promised, and what is different on a host or a line, with the reason: the one table of it.

Each entry is held to: the test of the behaviour expects exactly what is said here, so that an entry that is
no longer true fails it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """What is seen instead of what is promised, or may be, and why."""

    seen: object
    reason: str
    """A sentence for the page."""


BEHAVIOURS = {
    "connect": "A line is opened, and the first thing on it is `$welcome`.",
    "login": "A token says who the user is.",
    "not logged in": "Without a good token comes `$error`, and a close with 4401 and the reason.",
    "join": "A room lets in, refuses (`denied`), or is not there (`unknown_room`).",
    "send": "All members receive a message, with its offset and its sender.",
    "order": "Messages that are sent one right after the other arrive in that order.",
    "reply": "What a handler returns is the answer to the request.",
    "exclude": "A message to all others does not come back to its sender.",
    "presence": "Members are told who joins and leaves, and may ask who is there.",
    "error": "A handler that raises, or an invalid message, is answered with `$error`; the line goes on.",
    "too big": "A message over the limit ends the line with 1009.",
    "too many messages": "More messages than the limit end the line with 4529.",
    "wrong origin": "A page from elsewhere is refused with 403; the server's own is let in.",
    "too many connections": "One connection too many from an address is refused with 429.",
    "heartbeat": "A silent line carries a sign of life.",
    "resume": "A lost line's session goes on with what was missed, in order, once.",
    "gap": "What history no longer has is told (`$gap`), and what it still has comes.",
    "drain": "At SIGTERM comes `$drain`, and then 1012.",
    "slow reader": "Who does not read is closed with 4513, holds nobody up, and later finds the rest.",
}
"""What is tried in each cell. A behaviour's test has its name."""


class OneOf:
    """Equal to any of some values, where it is a matter of time which one is seen."""

    def __init__(self, *values: object) -> None:
        self._values = values

    def __eq__(self, other: object) -> bool:
        return other in self._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"one of {self._values}"


DRAINED = (["$drain"], 1012, "the server restarts")
LOST = ([], 1006, "")
TOLD_AND_LOST = (["$drain"], 1006, "")
UNTOLD = ([], *DRAINED[1:])

CLOSED = (
    "{} takes no new connections from the signal on, and a poll may need one: its client finds the line "
    "lost, and comes back."
)

DIFFERENCES: dict[tuple[str, str, str], Difference] = {
    **{
        ("too many messages", line, "granian"): Difference(
            OneOf(1006, 4529),
            "Granian closes the socket while messages are still under way to it, so that the client may see "
            "a lost line. It comes back all the same.",
        )
        for line in ("websocket", "socketio")
    },
    ("drain", "*", "granian"): Difference(
        OneOf(DRAINED, LOST, TOLD_AND_LOST, UNTOLD),
        "Granian may stop to write as soon as it is told to stop, at once or after a message: its clients "
        "miss `$drain`, or find the line lost. They come back all the same.",
    ),
    ("drain", "poll", "hypercorn"): Difference(
        OneOf(DRAINED, LOST, TOLD_AND_LOST), CLOSED.format("Hypercorn")
    ),
    ("drain", "poll", "aiohttp"): Difference(OneOf(DRAINED, LOST, TOLD_AND_LOST), CLOSED.format("aiohttp")),
    ("not logged in", "socketio", "*"): Difference(
        ["Log in first."] * 2,
        "Socket.IO's own answer to a login that is refused: CONNECT_ERROR, with the reason.",
    ),
    ("wrong origin", "grpc", "hubbub"): Difference(
        (("status", 403), "refused"),
        "gRPC does not tell by which name it was called, so that no origin is the server's own: list them in "
        "`allowed_origins`.",
    ),
}
"""By behaviour, line and host; ``*`` is any."""


def difference(behaviour: str, line: str, host: str) -> Difference | None:
    """Return what is different in a cell, if anything is."""
    for key in ((behaviour, line, host), (behaviour, line, "*"), (behaviour, "*", host)):
        if key in DIFFERENCES:
            return DIFFERENCES[key]
    return None


ELSEWHERE = (
    "gRPC speaks HTTP/2 on a port of its own, which `hubbub serve` opens. Elsewhere it is added to a server "
    "of yours: `hub.add_to_grpc(server)`."
)
"""Why the line over gRPC does not come with most hosts."""


def inapplicable(line: str, host: str) -> str | None:
    """Return why a line does not apply to a host; None if it does. Tests show that it is so."""
    return ELSEWHERE if line == "grpc" and host != "hubbub" else None
