"""The chat in an aiohttp application: ``python -m matrix.aiohttp_host PORT``."""

import sys

from aiohttp import web

from hubbub.integrations.aiohttp import setup
from matrix.application import chat

app = web.Application()
setup(app, chat(), path="/live")
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
