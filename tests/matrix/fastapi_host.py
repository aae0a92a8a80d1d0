"""The chat, mounted in a FastAPI application."""

from fastapi import FastAPI

from matrix.application import chat

hub = chat()
app = FastAPI(lifespan=hub.lifespan)
app.mount("/live", hub)
