"""A chat with rooms: everything its server does. `hubbub demo` runs it, http://localhost:8000 is its page.

The page, in `static/`, is plain HTML, CSS and JavaScript that speaks the protocol by hand; see `line.js`.
"""

import re
from pathlib import Path
from typing import Annotated

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hubbub import Connection, Denied, Hubbub, Message, Meta, Room

hub = Hubbub()
chat = hub.room("chat/{name}", history=200, presence=True)


class Say(Message):
    """Something said in a room: kept in its history."""

    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class Typing(Message):
    """Somebody is writing: worth showing now, not worth keeping."""


@hub.authenticate
async def who(connection: Connection) -> str:
    """Take people at their word: whoever connects to `/?name=ada` is ada. Elsewhere, check a login here."""
    name = connection.request.query_params.get("name", "").strip()
    if not 1 <= len(name) <= 24 or not name.isprintable() or ":" in name:
        raise Denied("Please choose a name of 1 to 24 characters, without a colon.")
    return name


@chat.on_join
async def admit(name: str) -> None:
    """Let everybody into every room, as long as the room's name fits into a link."""
    if not re.fullmatch("[a-z0-9-]{1,32}", name):
        raise Denied("Please name the room with 1 to 32 small letters (a to z), digits or hyphens.")


@chat.on_message
async def say(room: Room, message: Say) -> None:
    """Send it to everybody in the room, its author included: all see the same messages in the same order."""
    await room.send(message)


@chat.on_message
async def typing(connection: Connection, room: Room, message: Typing) -> None:
    """Send it to the others. Ephemeral: no history, and nobody who was away hears of it later."""
    await room.send(message, exclude=connection, ephemeral=True)


STATIC = Path(__file__).parent / "static"
# The page needs its own files and its own server, nothing else; no text can ever become markup or script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


async def page(_request: Request) -> FileResponse:
    """Serve the page, under a Content Security Policy."""
    return FileResponse(STATIC / "chat.html", headers={"Content-Security-Policy": POLICY})


app = Starlette(
    routes=[Route("/", page), Mount("/static", StaticFiles(directory=STATIC)), Mount("/", hub)],
    lifespan=hub.lifespan,
)
