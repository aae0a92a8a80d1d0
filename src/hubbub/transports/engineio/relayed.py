"""Sessions that poll, for requests that come to another instance: no proxy has to send them to the right one.

A session's id names its instance. The requests come as those for the hub's own lines over HTTP do, and so do
the answers (:mod:`hubbub.engine.relay`).
"""

import asyncio
from collections.abc import Awaitable

from ...engine.lines import TAKEN, LineAnswer
from .listener import Reason
from .packets import NOOP
from .payloads import write_payload
from .polling import Poll, take_body
from .refusals import BAD_REQUEST, Refused
from .socket import EngineSocket


class RelayedPoll(Poll):
    """A client's request for packets that another instance waits for. It needs no task."""

    __slots__ = ("_session", "reply")

    def __init__(self, session: EngineSocket) -> None:
        super().__init__()
        self.reply: asyncio.Future[LineAnswer] = asyncio.get_running_loop().create_future()
        self._session = session
        self.reply.add_done_callback(self._done)

    def rouse(self) -> None:
        """Answer in the next turn."""
        asyncio.get_running_loop().call_soon(self._reply)

    def _reply(self) -> None:
        body, _ = write_payload(self.taken(self._session), self._session.dialect)
        if not self.reply.done():
            self.reply.set_result(LineAnswer(200, body))

    def _done(self, reply: asyncio.Future[LineAnswer]) -> None:
        if reply.cancelled():
            # What was to be sent is lost, so nothing may follow it.
            self._session.failed(Reason.CLIENT_CLOSED)


class RelayedLine:
    """A session, as the hub asks one of its lines over HTTP."""

    __slots__ = ("_given_up", "_number", "_poll", "_session")

    def __init__(self, session: EngineSocket) -> None:
        self._session = session
        self._poll: RelayedPoll | None = None
        """The last one, which may be answered already."""
        self._number = 0
        self._given_up = 0
        """Number of a poll that was given up before it came."""

    @property
    def max_message(self) -> int:
        """Size in bytes of the largest body to let in."""
        return self._session.max_message

    async def post(self, messages: list[str], sequence: int | None) -> LineAnswer:  # noqa: ARG002
        """Take a body, which is the one message."""
        refused = self._refusal()
        if refused is None:
            refused = await take_body(self._session, _given(messages[0].encode()), False)
        return LineAnswer(200, b"ok") if refused is None else _refused(refused)

    def poll(self, received: int) -> Awaitable[LineAnswer]:
        """Answer with packets once there are some; `received` is the poll's number.

        Below zero it is the number of one that was given up: its answer has reached nobody.
        """
        if received < 0:
            return self._give_up(-received)
        poll, self._number = RelayedPoll(self._session), received
        self._poll = poll
        if received == self._given_up:
            poll.answer([NOOP])
            return poll.reply
        refused = self._refusal()
        if refused is None and not self._session.begin_poll(poll):
            refused = BAD_REQUEST
        if refused is not None:
            poll.reply.set_result(_refused(refused))
        return poll.reply

    def _give_up(self, number: int) -> Awaitable[LineAnswer]:
        poll = self._poll
        if poll is None or number != self._number:
            self._given_up = number
            poll = RelayedPoll(self._session)
            poll.answer([NOOP])
        else:
            self._session.give_up_poll(poll)
        return poll.reply

    async def leave(self) -> LineAnswer:
        """End the session: its client has left a poll, so that what it was sent may be lost."""
        if self._session.transport == "polling":
            self._session.failed(Reason.CLIENT_CLOSED)
        return TAKEN

    def _refusal(self) -> Refused | None:
        return None if self._session.transport == "polling" else BAD_REQUEST


async def _given(body: bytes) -> bytes | Refused:
    return body


def _refused(refused: Refused) -> LineAnswer:
    return LineAnswer(refused.status, refused.body)
