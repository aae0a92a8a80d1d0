"""The channel layer: what Django Channels calls."""

import asyncio
import atexit
import functools
import os
import secrets
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer
from django.apps import apps

from ...brokers import open_broker
from ...brokers.base import Broker
from ...brokers.memory import MemoryBroker
from ...errors import ConfigurationError, Unavailable
from ...settings import Settings
from .home import Home
from .mailboxes import Item
from .options import Options, mapped_of
from .queues import AGAIN
from .records import Flushed, Join, Leave, Named, Sent, unpack, written
from .station import Station

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ..django.application import DjangoHub


class HubbubChannelLayer(BaseChannelLayer):
    """A channel layer on any of hubbub's brokers, as Channels' own specification has it.

    `broker` is the URL of one; without it, it is that of the project's hub (``HUBBUB["broker"]``), or what
    ``HUBBUB_BROKER`` says. `rooms` says which groups are rooms of the hub: with ``{"chat_{name}":
    "chat/{name}"}`` the group ``chat_lobby`` is the room ``chat/lobby``. There is one message for both, so
    that none can go round in a circle: what is sent to the group is a message in the room, of the type
    ``message["type"]`` and with all else as its data, and the group's consumers receive what is published in
    the room.

    `expiry` is for how many seconds a message waits for its receiver, `group_expiry` after how many a channel
    is in a group no more, `capacity` how many messages may wait in a channel, and `channel_capacity` the same
    for channels by a pattern of their names, as in channels_redis.

    Where the broker can't be reached, methods raise :exc:`hubbub.Unavailable`; :meth:`receive` waits.
    """

    extensions = ["groups", "flush"]  # noqa: RUF012  # as Channels has it

    def __init__(
        self,
        broker: str | None = None,
        *,
        rooms: Mapping[str, str] | None = None,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        settings, hub = Settings.load(), _hub()
        if rooms and hub is None:
            raise ConfigurationError(
                "CHANNEL_LAYERS has groups that are rooms, and there is no hub: put "
                "'hubbub.integrations.django' into INSTALLED_APPS."
            )
        if hub is not None:
            settings = hub.settings
        if broker is not None:
            settings = msgspec.structs.replace(settings, broker=broker)
        self.settings = settings
        # One process's own: what is here has to be in the same place as the hub's rooms.
        own = not open_broker(settings).guarantees.shared
        self._with_hub = hub if own and hub is not None and hub.settings.broker == settings.broker else None
        if rooms and own and self._with_hub is None:
            raise ConfigurationError(
                "The channel layer's broker is this process's own, and is not the hub's: give the two the "
                "same broker."
            )
        self._options = Options(
            expiry, group_expiry, self.get_capacity, mapped_of(rooms or {}), hub, settings.broker_timeout
        )
        self._home = self._new_home()
        _OPEN.add(self)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.settings.broker.partition(':')[0]}://)"

    # Channels

    async def send(self, channel: str, message: dict[str, object]) -> None:
        """Send to a channel: to one receiver, at most once.

        Raises :exc:`ChannelFull` for a channel of this process, or one that is no process's own, in which too
        many messages wait; to a full channel of another process nothing gets. Raises :exc:`TypeError` for a
        bad name or message, :exc:`MessageTooLarge`, :exc:`hubbub.Unavailable`.
        """
        self.require_valid_channel_name(channel)
        text, home = written(message), self._here()
        process = _process_of(channel)
        if process is None:
            await home.run(lambda station: station.queues.queue(channel).send(text))
        elif process == home.process:
            name = self.non_local_name(channel)
            if not home.mailboxes.put(name, channel, text, self.expiry, self.get_capacity(channel)):
                raise ChannelFull(channel)
        else:
            await home.run(lambda station: station.tell(process, Sent(channel, text)))

    async def receive(self, channel: str) -> dict[str, object]:
        """Return the next message of a channel, or of all whose names begin so if it ends with ``!``.

        Of several that wait, each message goes to one. While the broker can't be reached it waits. Raises
        :exc:`TypeError` for a bad name, and for a channel that is another process's.
        """
        self.require_valid_channel_name(channel)
        home, process, name = self._here(), _process_of(channel), self.non_local_name(channel)
        if process not in (None, home.process):
            raise TypeError(f"{channel} is not this process's: only its own process receives from it.")
        future = home.mailboxes.take(name, None if channel.endswith("!") else channel)
        try:
            if process is None and not future.done():
                await self._attend(home, channel, future)
            item = future.result() if future.done() else await asyncio.wrap_future(future)
        except BaseException:
            # It may have been handed over in the same moment.
            if not future.cancel():
                home.mailboxes.put_back(name, future.result())
            raise
        received: dict[str, object] = unpack(item.message)
        return received

    async def _attend(self, home: Home, channel: str, future: "Future[Item]") -> None:
        """Have a queue bring its messages here."""

        async def attend(station: Station) -> None:
            station.queues.queue(channel).attend()

        while not future.done():
            try:
                await home.run(attend)
            except Unavailable:
                await asyncio.sleep(AGAIN)  # it has not been reached once, or it would try by itself
            else:
                return

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel of this process.

        Its part up to the ``!`` is its own, too, and so is its capacity.
        """
        home = self._here()
        name = f"{prefix}.{home.process}.{secrets.token_hex(6)}!0"
        self.require_valid_channel_name(name)
        if self._with_hub is not None and self._with_hub.loop is None:
            # Consumers ask for channels, on the server's event loop; one may be the first client of all.
            await self._with_hub.start()
        if not home.started:
            await home.run(_nothing)  # from now on others can send to it
        return name

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Put a channel into a group for `group_expiry` seconds; as this returns, it is in it.

        Where the channel is another process's and that does not answer within 2 s, it is most likely gone.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self._change_group(group, channel, present=True)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; nothing if it is not in it."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        await self._change_group(group, channel, present=False)

    async def _change_group(self, group: str, channel: str, *, present: bool) -> None:
        home, process = self._here(), _process_of(channel)

        async def change(station: Station) -> None:
            if process is None:
                if present or channel in station.named.get(group, {}):
                    await station.say_to_all(Named(group, channel, time.time(), present))
            elif process != home.process:
                question = (Join if present else Leave)(group, channel, home.process, secrets.token_hex(8))
                await station.ask(process, question)
            elif present:
                await station.groups.add(group, channel)
            else:
                await station.groups.discard(group, channel)

        await home.run(change)

    async def group_send(self, group: str, message: dict[str, object]) -> None:
        """Send to all channels of a group, but for those that are full.

        Raises :exc:`TypeError` for a bad name or message, :exc:`MessageTooLarge`, :exc:`hubbub.Unavailable`;
        of a group that is a room :exc:`hubbub.ConfigurationError` if the room is not declared, and for a
        message without a type.
        """
        self.require_valid_group_name(group)
        text = written(message)

        async def send(station: Station) -> None:
            await station.groups.send(group, text)
            oldest = time.time() - self.group_expiry
            for channel, since in list(station.named.get(group, {}).items()):
                if since > oldest:
                    with suppress(ChannelFull):  # a group's channel that is full is passed over
                        await station.queues.queue(channel).send(text)

        await self._here().run(send)

    # All of it

    async def flush(self) -> None:
        """Forget all messages and groups, in all processes; here, they are forgotten when this returns."""
        await self._here().run(lambda station: station.say_to_all(Flushed(time.time())))

    async def close(self) -> None:
        """Give the connection to the broker back. The layer begins anew when it is used again."""
        await self._here().close()

    def _here(self) -> Home:
        """Return what this process has of the layer; after a fork it is another one's."""
        if self._home.pid != os.getpid():
            # Held on to: taken apart, it might say something on the parent's connection.
            self._parents = self._home
            self._home = self._new_home()
        return self._home

    def _new_home(self) -> Home:
        return Home(self._place, self._make)

    def _place(self) -> asyncio.AbstractEventLoop | None:
        hub = self._with_hub if self._with_hub is not None else _running_hub()
        if hub is None or hub.loop is None:
            if self._with_hub is not None and self._options.mapped:
                raise ConfigurationError(
                    "The channel layer's groups are in this process's hub, which does not run: serve the "
                    "project with get_asgi_application() of hubbub.integrations.django, or give both a "
                    "broker that processes share."
                )
            return None
        if self.close not in hub.closing:
            hub.closing.append(self.close)
        return hub.loop

    def _make(self, home: Home) -> Station:
        hub = self._with_hub
        broker = _beside(hub) if hub is not None and hub.loop is not None else open_broker(self.settings)
        return Station(broker, self._options, home.mailboxes, home.process)


def _beside(hub: "DjangoHub") -> Broker:
    """Return a broker on the same store as a hub's, where that is this process's own."""
    broker = hub.running_broker
    if isinstance(broker, MemoryBroker):
        return MemoryBroker(broker.store)
    from ...brokers.sqlite import SqliteBroker

    assert isinstance(broker, SqliteBroker)
    return SqliteBroker(broker.store)


def _hub() -> "DjangoHub | None":
    """Return the project's hub, if it has one."""
    if not apps.ready or not apps.is_installed("hubbub.integrations.django"):
        return None
    from ..django.application import the_hub

    return the_hub()


def _running_hub() -> "DjangoHub | None":
    hub = _hub()
    return None if hub is None or hub.loop is None else hub


@functools.lru_cache(maxsize=4096)
def _process_of(channel: str) -> str | None:
    """Return the process that a channel is of, None if it is of none.

    Raises :exc:`TypeError` for a name with a ``!`` that :meth:`HubbubChannelLayer.new_channel` did not make.
    """
    name, mark, _ = channel.partition("!")
    if not mark:
        return None
    parts = name.rsplit(".", 2)
    if len(parts) != 3 or not (parts[1] and parts[2]):
        raise TypeError(f"{channel} is no process's channel: new_channel() makes those.")
    return parts[1]


async def _nothing(station: Station) -> None:
    pass


_OPEN: "weakref.WeakSet[HubbubChannelLayer]" = weakref.WeakSet()


def _close_all() -> None:
    for layer in list(_OPEN):
        layer._here().close_blocking()


atexit.register(_close_all)
