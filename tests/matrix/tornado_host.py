"""The chat in a Tornado application: ``python -m matrix.tornado_host PORT``."""

import asyncio
import signal
import sys

import tornado.web

from hubbub.integrations.tornado import routes
from matrix.application import chat


async def main(port: int) -> None:
    hub = chat()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with hub.lifespan():
        server = tornado.web.Application(routes(hub, "/live")).listen(port, "127.0.0.1")
        await stop.wait()
        server.stop()


asyncio.run(main(int(sys.argv[1])))
