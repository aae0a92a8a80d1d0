"""What is live: hubbub's Django app imports this module of each app."""

from typing import Annotated

from django.db import transaction

from chat.models import Saying
from hubbub import Connection, Denied, Message, Meta, Room
from hubbub.integrations.django import hub, publish_on_commit, user_of

chat = hub.room("chat/{name}", history=200, presence=True)


class Say(Message):
    """Somebody wants to say something."""

    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class Said(Message):
    """Somebody said something; it is in the database."""

    id: int
    author: str
    text: str


@hub.on_connect
def only_users(connection: Connection) -> None:
    """Let nobody in who is not logged in."""
    if connection.user is None:
        raise Denied("Log in first.")


@chat.on_message
def say(connection: Connection, room: Room, name: str, message: Say) -> dict[str, int]:
    """Keep it, and tell all once it is kept."""
    with transaction.atomic():
        author = user_of(connection)
        saying = Saying.objects.create(author=author, room=name, text=message.text)
        publish_on_commit(room, Said(id=saying.pk, author=author.get_username(), text=saying.text))
    return {"id": saying.pk}
