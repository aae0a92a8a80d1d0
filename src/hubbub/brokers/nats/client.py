"""nats-py's client, with one entrance for all that arrives.

nats-py gives each subscription a task and a queue, which is too much for a hundred thousand rooms, and takes
all headers of each message apart.
"""

from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

Handler = Callable[[Msg], None]


class LineClient(Client):
    """A client that leaves headers as they came: of most messages one is looked at, or none."""

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        return headers  # type: ignore[return-value]  # nats-py hands it on as it is


def header(message: Msg, name: bytes) -> str | None:
    """Return a header of a message, None if it has none of that name."""
    raw: object = message.headers
    if not isinstance(raw, bytes):
        return None
    start = raw.find(b"\r\n%b:" % name)
    if start < 0:
        return None
    start += len(name) + 3
    return raw[start : raw.find(b"\r\n", start)].strip().decode(errors="replace")


def status(message: Msg) -> str | None:
    """Return the status that a server gave instead of a message: 404, 503; None if it is a message."""
    raw: object = message.headers
    if not isinstance(raw, bytes) or raw[8:9] != b" ":
        return None
    return raw[9:12].decode(errors="replace")


class _Doorway:
    """Stands for the queue of a subscription: what is put into it is handled at once."""

    def __init__(self, handle: Handler) -> None:
        self.put_nowait = handle


class Feed(Subscription):
    """The one subscription that nats-py knows; whatever the number, it is this one."""

    def __init__(self, client: Client, handle: Handler) -> None:
        super().__init__(client, pending_bytes_limit=0)
        self._pending_queue = _Doorway(handle)  # type: ignore[assignment]


class Subscriptions(dict[int, Subscription]):
    """What nats-py looks subscriptions up in, by their number: one is there for every number."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def get(self, _number: object, _default: object = None) -> Feed:
        """Return the one there is."""
        return self._feed


def make_client(handle: Handler) -> Client:
    """Return a client that hands all messages to `handle`, at once and in order."""
    client = LineClient()
    client._subs = Subscriptions(Feed(client, handle))
    return client
