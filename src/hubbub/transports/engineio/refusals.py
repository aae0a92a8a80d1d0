"""What requests are told that are refused: the codes and sentences of the reference server.

https://socket.io/docs/v4/server-api/#connection_error lists them. The protocol asks for the status.
"""

import json
from typing import NamedTuple

from starlette.types import Scope, Send

from ..admission import Refusal
from ..denial import deny


class Refused(NamedTuple):
    """A refusal as HTTP answer: `code` tells a client's library why."""

    code: int
    message: str
    status: int = 400
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def body(self) -> bytes:
        """Code and message as JSON."""
        return json.dumps({"code": self.code, "message": self.message}, separators=(",", ":")).encode()


UNKNOWN_TRANSPORT = Refused(0, "Transport unknown")
UNKNOWN_SESSION = Refused(1, "Session ID unknown")
BAD_METHOD = Refused(2, "Bad handshake method")
BAD_REQUEST = Refused(3, "Bad request")
UNSUPPORTED_VERSION = Refused(5, "Unsupported protocol version")
TOO_LARGE = Refused(3, "Payload too large", 413)


def forbidden(refusal: Refusal) -> Refused:
    """Return what a client is told whom the hub does not let in."""
    retry = tuple(header for header in refusal.headers if header[0] == b"retry-after")
    return Refused(4, refusal.sentence, refusal.status, retry)


async def refuse_websocket(refused: Refused, scope: Scope, send: Send) -> None:
    """Answer the opening handshake with a refusal, as far as the server lets an application.

    The body is the message alone, as the reference server has it.
    """
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *refused.headers]
    if not await deny(scope, send, refused.status, headers, refused.message.encode()):
        await send({"type": "websocket.close", "code": 1008, "reason": refused.message})
