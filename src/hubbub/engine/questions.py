"""Questions of this instance to others, and its answers to theirs."""

import asyncio
import secrets
from typing import Protocol

import msgspec

from ..brokers.base import Broker
from ..errors import Unavailable
from .control import Question, send
from .outgoing import Outgoing
from .shared import SharedRequest

MAX_ASKED = 100_000
"""Questions that wait for their answers: more than there are clients whose polls can be under way."""


class Told(Protocol):
    """What answers a question."""

    @property
    def question(self) -> str:
        """The question's own name."""

    @property
    def instance(self) -> str:
        """Which instance answers."""


class Asked:
    """A question to other instances: who has to answer yet, and what those did who have."""

    def __init__(self, instances: set[str]) -> None:
        self.missing = instances
        self.answers: dict[str, Told] = {}
        self.over = asyncio.Event()

    def take(self, answer: Told) -> None:
        """Take the answer of one of them."""
        if answer.instance in self.missing:
            self.answers[answer.instance] = answer
            self.missing.discard(answer.instance)
            if not self.missing:
                self.over.set()


class Questions:
    """Asks other instances, and waits until each has answered, is gone, or has had its time."""

    def __init__(self, broker: Broker, patience: float = 0.0) -> None:
        """`patience` is for how many seconds an instance may be missed before it counts as gone.

        When a broker comes back after longer than a lease, everybody's is over, and renewed in a moment.
        """
        self._broker = broker
        self._patience = patience
        self._asked: dict[str, Asked] = {}
        self._present: set[str] = set()
        """Instances that took part when it was last looked, or a moment before."""
        self._missed: dict[str, float] = {}
        """Since when some of them are missed, by the event loop's clock."""
        self._looking = SharedRequest(self._look, "hubbub: instances")
        self._outgoing = Outgoing(broker)

    @property
    def instance(self) -> str:
        """The name of this instance."""
        return self._broker.instance

    async def others(self) -> set[str]:
        """Return the names of all other instances; :exc:`Unavailable` if the broker can't be reached."""
        return set(await self._broker.instances()) - {self.instance}

    async def ask(self, question: Question, instances: set[str], seconds: float) -> Asked:
        """Ask some instances, or all others; return what they answered, and who did not in time.

        Raises :exc:`Unavailable` if the broker can't be reached.
        """
        if len(self._asked) >= MAX_ASKED:
            raise Unavailable("Too much is being asked of other instances.")
        asked = self._asked[question.question] = Asked(set(instances))
        try:
            async with asyncio.timeout(seconds):
                await send(self._broker, next(iter(instances)) if len(instances) == 1 else None, question)
                await asked.over.wait()
        except TimeoutError:
            pass
        finally:
            del self._asked[question.question]
        return asked

    def give_up(self, question: str) -> None:
        """Wait no longer for answers to a question of this instance."""
        self._asked[question].over.set()

    def answered(self, answer: Told) -> None:
        """Take the answer to a question of this instance."""
        asked = self._asked.get(answer.question)
        if asked is not None:
            asked.take(answer)

    def answer(self, question: Question, answer: msgspec.Struct) -> None:
        """Answer a question of another instance."""
        self._outgoing.put(question.instance, answer)

    async def are_there(self, instances: set[str]) -> bool:
        """Tell whether all of some instances take part; :exc:`Unavailable` if the broker can't be reached.

        The broker is asked only where a name was not among the last that it told, and once at a time: whoever
        makes names up has little of it.
        """
        if not instances <= self._present:
            await self._looking.made()
        return instances <= self._present

    async def look(self) -> None:
        """Wait no longer for instances that are gone, as far as leases tell."""
        if self._asked:
            await self._look()
            for asked in self._asked.values():
                if asked.missing.isdisjoint(self._present):
                    asked.over.set()

    async def _look(self) -> None:
        found, now = set(await self._broker.instances()), asyncio.get_running_loop().time()
        self._missed = {
            name: since
            for name in self._present - found
            if now - (since := self._missed.get(name, now)) < self._patience
        }
        self._present = found | self._missed.keys()

    async def stop(self, seconds: float) -> None:
        """Give the answers that there are, within some seconds."""
        await self._looking.stop()
        await self._outgoing.stop(seconds)


def new_question() -> str:
    """Return a name for a question."""
    return secrets.token_hex(8)
