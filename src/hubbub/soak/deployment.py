"""What a soak's clients connect to: one server, or several instances behind HAProxy, and their broker."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ..errors import ConfigurationError
from ..testing.faults import FaultProxy
from ..testing.processes import Process, keep_port
from ..testing.servers import Server
from ..testing.servers.haproxy import HAProxy
from .engine import guarantees, link, private_engine, through
from .order import Order
from .server import CONNECTIONS_PER_LINE, SPARE_FILES, memory, served

HEARTBEAT = 2.0
"""Seconds: with a shorter one, a busy machine takes lines for dead that are not."""
PATIENT_HEARTBEAT = 10.0
"""The same where no line is made dead: then one that is taken for dead is a fault of the soak's."""


class Deployment:
    """Servers, what stands before them, and what is behind them. Made by :func:`deployed`."""

    def __init__(
        self,
        instances: Sequence[Process],
        links: Sequence[FaultProxy],
        engine: Server | None,
        balancer: HAProxy | None,
        *,
        durable: bool,
        port: int,
    ) -> None:
        self.instances = instances
        self.links = links
        """One for each instance, where it is to be cut from the broker."""
        self.engine = engine
        """The broker's server, where it is there for the soak alone."""
        self.durable = durable
        """Whether the broker keeps what it was given."""
        self.port = port
        """Where clients connect."""
        self._balancer = balancer

    def memory(self, name: str = "VmRSS") -> int:
        """Return the bytes of memory that all servers have together, or at most had (``VmHWM``)."""
        return sum(memory(server, name) for server in self.instances)

    def log(self, most: int) -> str:
        """Return the end of the log of each server, `most` characters of each, and of HAProxy."""
        if self._balancer is None:
            return self.instances[0].log[-most:]
        logs = [
            f"Instance {number}:\n{server.log[-most:]}" for number, server in enumerate(self.instances, 1)
        ]
        return "\n".join([*logs, f"HAProxy:\n{self._balancer.log[-most:]}"])

    async def kill(self) -> None:
        """Let nobody go in an orderly way."""
        for process in (*self.instances, *([self._balancer] if self._balancer else [])):
            await process.kill()


@asynccontextmanager
async def deployed(order: Order, connections: int) -> AsyncIterator[Deployment]:
    """Have servers run as a soak is ordered, for so many connections, until the block ends.

    Raises :exc:`ConfigurationError` for what is not installed or can't be, and
    :exc:`hubbub.testing.processes.NotStarted` for what does not start.
    """
    async with AsyncExitStack() as stack:
        engine, url = None, order.broker
        if order.private:
            engine, url = await stack.enter_async_context(private_engine(order.broker))
        kept = guarantees(url)
        if order.instances > 1 and not kept.shared:
            scheme = url.partition(":")[0]  # what follows may hold a password
            raise ConfigurationError(f"Instances can't share {scheme}://: use redis, rabbitmq or nats.")
        places = [
            stack.enter_context(keep_port()) for _ in range(order.instances if order.line == "grpc" else 0)
        ]
        of_grpc: list[int] = [place.getsockname()[1] for place in places]
        links = [link(url) for _ in range(order.instances if order.severs else 0)]
        for proxy in links:
            await stack.enter_async_context(proxy)
        instances = [
            served(
                order.app,
                broker=through(links[number], url) if links else url,
                native=order.native,
                history=order.history,
                heartbeat=HEARTBEAT
                if order.fault_every or order.lose_acknowledgements
                else PATIENT_HEARTBEAT,
                connections=connections,
                grpc_port=of_grpc[number] if of_grpc else None,
            )
            for number in range(order.instances)
        ]
        for server in instances:
            stack.push_async_callback(server.close)
        async with asyncio.TaskGroup() as group:
            for server in instances:
                group.create_task(server.start())
        balancer, port = None, of_grpc[0] if of_grpc else instances[0].port
        if order.instances > 1:
            balancer = HAProxy(
                [server.port for server in instances],
                connections=CONNECTIONS_PER_LINE * connections + SPARE_FILES,
                grpc=of_grpc,
            )
            await stack.enter_async_context(balancer)
            port = balancer.grpc_port if of_grpc else balancer.port
        yield Deployment(instances, links, engine, balancer, durable=kept.durable, port=port)
