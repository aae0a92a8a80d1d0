"""A chat in which anybody may do to others what moderators do, served in one process or in several."""

from chat_room import Say
from hubbub import Connection, ConnectionInfo, Hubbub, Message, Room, Settings
from hubbub.brokers.base import Broker


class Kick(Message):
    user: str
    reason: str = "Be kind."


class Ban(Message):
    user: str
    seconds: float = 60.0


class Unban(Message):
    user: str


class Count(Message):
    of: int | None


class Whisper(Message):
    user: str
    text: str


class Connections(Message):
    user: str


class Found(Message):
    connections: list[ConnectionInfo]


class Disconnect(Message):
    user: str
    reason: str = "Log in again."
    login: str | None = None


def moderated_chat(
    broker: Broker | None = None, settings: Settings | None = None, *, bans: bool = True
) -> Hubbub:
    """Return a hub whose lobby has members that can be kicked and banned; each token is a user's name."""
    hub = Hubbub(settings, broker=broker)
    rooms = hub.room("chat/{name}", history=100, presence=True, bans=bans)

    @hub.authenticate
    def who(connection: Connection) -> str | None:
        return connection.token

    @rooms.on_message
    async def say(room: Room, message: Say) -> None:
        await room.send(message)

    @hub.on_message
    async def kick(message: Kick) -> Count:
        return Count(await rooms(name="lobby").kick(message.user, reason=message.reason))

    @hub.on_message
    async def ban(message: Ban) -> Count:
        lobby = rooms(name="lobby")
        return Count(await lobby.ban(message.user, seconds=message.seconds, reason="Not today."))

    @hub.on_message
    async def unban(message: Unban) -> None:
        await rooms(name="lobby").unban(message.user)

    @hub.on_message
    async def whisper(message: Whisper) -> None:
        await hub.user(message.user).send(Say(text=message.text))

    @hub.on_message
    async def connections(message: Connections) -> Found:
        return Found(await hub.connections(user=message.user))

    @hub.on_message
    async def disconnect(message: Disconnect) -> Count:
        count = await hub.disconnect(user=message.user, reason=message.reason, login=message.login)
        return Count(count)

    return hub


hub = moderated_chat()
"""What ``hubbub serve moderated_chat:hub`` serves."""
