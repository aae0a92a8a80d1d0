"""The chat, mounted in a Starlette application."""

from starlette.applications import Starlette
from starlette.routing import Mount

from matrix.application import chat

hub = chat()
app = Starlette(routes=[Mount("/live", hub)], lifespan=hub.lifespan)
