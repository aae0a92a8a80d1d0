"""Hubs as instances: in one server, on one event loop, since a store in memory is for one thread."""

from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from hubbub import Hubbub


def side_by_side(**hubs: Hubbub) -> Starlette:
    """Return an application that serves each hub below the path of its name."""

    @asynccontextmanager
    async def lifespan(app):
        async with AsyncExitStack() as stack:
            for hub in hubs.values():
                await stack.enter_async_context(hub.lifespan())
            yield

    return Starlette(routes=[Mount(f"/{name}", hub) for name, hub in hubs.items()], lifespan=lifespan)
