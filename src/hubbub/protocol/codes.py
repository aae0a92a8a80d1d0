"""Close codes and error codes: the one table that the server, the clients and the documentation read.

The range of a close code tells a client what to do: 1000 is a normal end; 1001, 1006, 1012, 1013 and
45xx: come back (45xx with the session's positions); 44xx, 1002, 1003, 1007 and 1009: don't.
"""

from enum import IntEnum, StrEnum


class CloseCode(IntEnum):
    """Why a connection ended (RFC 6455 section 7.4.1 below 4000, hubbub's own from 4400 on)."""

    meaning: str
    """What happened, as a sentence."""
    comes_back: bool
    """Whether a client should connect again by itself."""

    def __new__(cls, code: int, meaning: str, comes_back: bool) -> "CloseCode":
        """Make a member that is its number and carries what the number means."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.comes_back = comes_back
        return member

    NORMAL = 1000, "One side is done.", False
    GOING_AWAY = 1001, "The page was left or the server stops.", True
    PROTOCOL_ERROR = 1002, "A frame broke RFC 6455.", False
    UNSUPPORTED_DATA = 1003, "The endpoint does not take this kind of data.", False
    NO_STATUS = 1005, "The other side gave no code.", False
    ABNORMAL = 1006, "The line was lost without a closing handshake.", True
    INVALID_DATA = 1007, "A text message was not UTF-8.", False
    MESSAGE_TOO_BIG = 1009, "A message was larger than the limit.", False
    INTERNAL_ERROR = 1011, "The server met an error.", True
    SERVICE_RESTART = 1012, "The server restarts.", True
    TRY_AGAIN_LATER = 1013, "The server is overloaded.", True
    NOT_LOGGED_IN = 4401, "The login was refused or has ended; log in again.", False
    FORBIDDEN = 4403, "This user may not connect.", False
    REPLACED = 4409, "A newer connection of the same session took over.", False
    IDLE = 4508, "Nothing was heard from the client in time.", True
    TOO_SLOW = 4513, "The client reads too slowly; come back and resume.", True
    TOO_MANY_MESSAGES = 4529, "The client sends too many messages.", True


def comes_back(code: int) -> bool:
    """Tell whether a client comes back by itself after a close code; by its range, if it is none known."""
    known = _CLOSE_CODES.get(code)
    return not 4400 <= code < 4500 if known is None else known.comes_back


_CLOSE_CODES = {int(code): code for code in CloseCode}


class ErrorCode(StrEnum):
    """What an ``$error`` is about."""

    meaning: str
    """What happened, as a sentence."""
    retry: bool
    """Whether the same message may succeed later."""

    def __new__(cls, code: str, meaning: str, retry: bool) -> "ErrorCode":
        """Make a member that is its name on the wire and carries what it means."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.retry = retry
        return member

    INVALID = "invalid", "The message is malformed or does not fit its schema; `errors` says where.", False
    UNKNOWN_TYPE = "unknown_type", "Nothing here handles a message of this type.", False
    UNKNOWN_ROOM = "unknown_room", "There is no such room.", False
    NOT_JOINED = "not_joined", "Join the room first.", False
    TOO_MANY_ROOMS = "too_many_rooms", "The connection is in as many rooms as it may be.", False
    DENIED = "denied", "The application refused; the message says why.", False
    KICKED = "kicked", "The application took you out of the room; the message says why.", False
    BANNED = "banned", "You are banned from the room for some time; the message says why.", False
    SESSION_REFUSED = (
        "session_refused",
        "The session can't be taken up; the connection goes on with a new one. Join the rooms.",
        False,
    )
    INTERNAL = "internal", "A handler failed; the log has more under the correlation id.", False
    UNAVAILABLE = "unavailable", "The broker can't be reached now. Send it again, with the same `id`.", True


ERROR_CODES = {code.value: code for code in ErrorCode}
"""Error code by its name on the wire."""
