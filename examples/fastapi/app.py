"""A FastAPI application with a hub: its login is FastAPI's own, and a route publishes."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel

import hubbub.integrations.fastapi  # noqa: F401  # lets hooks and handlers have dependencies
from hubbub import Connection, Hubbub, Message, Room

hub = Hubbub()
orders = hub.room("orders/{number}", history=50)

USERS = {"8c1f5b0e": "ada", "d2a94c77": "bob"}  # in earnest: your database, or a signed token
ORDERS = {"4711": "ada", "4712": "bob"}


class StatusChanged(Message):
    """What a room's members are told."""

    status: str


class Remark(Message):
    """What a member says about an order."""

    text: str


class Status(BaseModel):
    """What the route takes."""

    status: str


async def current_user(token: Annotated[str, Depends(OAuth2PasswordBearer("token"))]) -> str:
    """Return who it is, for routes and for the hub alike."""
    if token not in USERS:
        raise HTTPException(401, "This token is not valid.")
    return USERS[token]


async def database() -> AsyncIterator[dict[str, str]]:
    """Lend a database for as long as a route, a hook or a handler runs."""
    yield ORDERS


CurrentUser = Annotated[str, Depends(current_user)]
Database = Annotated[dict[str, str], Depends(database)]


@hub.authenticate
async def who(user: CurrentUser) -> str:
    """Log in as the routes do."""
    return user


@orders.on_join
async def admit(connection: Connection, number: str, database: Database) -> None:
    """Let only those in whose order it is."""
    if database.get(number) != connection.user:
        raise HTTPException(403, "This is not your order.")


@orders.on_message
async def remark(room: Room, message: Remark) -> None:
    """Pass a remark on."""
    await room.send(message)


app = FastAPI(lifespan=hub.lifespan)


@app.put("/orders/{number}", dependencies=[Depends(current_user)])
async def change_status(number: str, status: Status) -> dict[str, int]:
    """Tell all who watch an order."""
    position = await orders(number=number).send(StatusChanged(status=status.status))
    return {"offset": position.offset}


app.mount("/live", hub)
