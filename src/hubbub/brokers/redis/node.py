"""One server that rooms lie on: its two connections, made again whenever they break."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine

from redis.exceptions import ResponseError

from ...errors import ConfigurationError, Unavailable
from ...observe.log import fields, logger
from ..outage import Outage
from .address import Address, Place
from .channels import Channels, Listener
from .line import BROKEN, Commands, all_of
from .lineage import NotMaster, check, facts, lineage_of, refusal, warn
from .scripts import ALL

RETRIES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before another try to connect; the last one again and again."""
LOOKS = 1.0
"""Seconds between two looks whether the server is what it was."""


class Node:
    """A server, found anew with each try; what it is good for is done through :attr:`commands`.

    `ready` is called when it is there (again), and does what is to be done then; `lost` when it is not.
    """

    def __init__(
        self,
        address: Address,
        find: Callable[[], Awaitable[Place]],
        *,
        timeout: float,
        listener: Listener | None,
        ready: Callable[["Node"], Coroutine[None, None, None]],
        lost: Callable[[], None],
    ) -> None:
        self.address = address
        self.place: Place | None = None
        self.lineage = b""
        self.timeout = timeout
        self._find = find
        self._listener = listener
        self._ready = ready
        self._lost = lost
        self._commands: Commands | None = None
        self._channels: Channels | None = None
        self._over = asyncio.Event()
        self.returned_at: float | None = None
        """When it was there again, by the event loop's clock; None if it has never been away."""
        self._outage = Outage()
        self._there_at = math.inf
        self.tried = asyncio.Event()
        """Set when it was tried once to connect."""
        self.refused: ConfigurationError | None = None
        """Why the server is of no use, if that is known."""

    @property
    def available(self) -> bool:
        """Whether the server answers, as far as is known."""
        return self._commands is not None

    @property
    def commands(self) -> Commands:
        """The line for commands; :exc:`Unavailable` if there is none."""
        if self._commands is None:
            raise Unavailable("Redis can't be reached.")
        return self._commands

    @property
    def channels(self) -> Channels:
        """The line for messages; :exc:`Unavailable` if there is none."""
        if self._channels is None:
            raise Unavailable("Redis can't be reached.")
        return self._channels

    def reconnect(self) -> None:
        """Look at once whether the server is a replica by now, or has another lineage."""
        self._over.set()

    async def reload(self) -> None:
        """Tell the server all steps: somebody had it forget them."""
        for script in ALL:
            await self.commands.ask_well(b"SCRIPT", b"LOAD", script.source)

    async def run(self) -> None:
        """Keep up the connections, for ever."""
        loop = asyncio.get_running_loop()
        failures = -1
        while True:
            self._there_at = math.inf
            problem: BaseException
            try:
                await self._attempt()
            except (*BROKEN, NotMaster, Unavailable, ConfigurationError) as raised:
                problem = raised
            except Exception as raised:
                logger.exception("error", extra=fields(during="broker"))
                problem = raised
            # One that is there and gone again at once is not to be asked all the time.
            failures = 0 if loop.time() - self._there_at > LOOKS else failures + 1
            self._tell(problem)
            self.tried.set()
            self._lost()
            await asyncio.sleep(RETRIES[min(failures, len(RETRIES) - 1)])

    async def _attempt(self) -> None:
        """Connect, and stay connected as long as it goes; always ends with an exception."""
        async with asyncio.timeout(self.timeout):
            place = self.place = await self._find()
        commands = Commands(self.address, place, self.timeout)
        channels = None
        if self._listener is not None:
            channels = Channels(self.address, place, self.timeout, self._listener)
        try:
            async with asyncio.timeout(self.timeout):
                await commands.connect()
                told = await facts(commands.exchange)
                check(told, place, cluster=self.address.kind == "cluster")
                self.lineage = lineage_of(told)
                for script in ALL:
                    await commands.exchange(b"SCRIPT", b"LOAD", script.source)
                if channels is not None:
                    await channels.connect()
                    await self._see_rights(channels, place)
            self._is_there(told, place)
            self._commands, self._channels = commands, channels
            jobs = [commands.run(), self._look(), self._ready(self)]
            await all_of(*jobs, *([] if channels is None else [channels.run()]))
        finally:
            self._commands = self._channels = None
            commands.give_up()
            if channels is not None:
                channels.give_up()
            await commands.close()
            if channels is not None:
                await channels.close()

    async def _see_rights(self, channels: Channels, place: Place) -> None:
        """Raise :exc:`ConfigurationError` if the user may not listen."""
        try:
            await channels.exchange(b"SSUBSCRIBE", channels.listener.channel)
        except ResponseError as problem:
            refused = refusal(problem, place)
            if refused is not None:
                raise refused from None
            # In a cluster, it lies elsewhere.

    def _is_there(self, told: dict[str, str], place: Place) -> None:
        self.refused = None
        self._there_at = asyncio.get_running_loop().time()
        if self.tried.is_set():
            self.returned_at = self._there_at
        self._outage.ends(str(place))
        if not self.tried.is_set():
            warn(told, place)
        self.tried.set()

    async def _look(self) -> None:
        """See whether the server is still what it was when we connected."""
        while True:
            try:
                async with asyncio.timeout(LOOKS):
                    await self._over.wait()
            except TimeoutError:
                pass
            self._over.clear()
            told = await facts(self.commands.ask_well)
            if told.get("role") != "master":
                raise NotMaster("It is a replica.")
            if lineage_of(told) != self.lineage:
                raise ConnectionResetError("It was reconfigured.")

    def _tell(self, problem: BaseException) -> None:
        where = self.place or self.address
        self.refused = problem if isinstance(problem, ConfigurationError) else refusal(problem, where)
        because = str(self.refused or problem) or type(problem).__name__
        self._outage.begins(str(where), because, refused=self.refused is not None)
