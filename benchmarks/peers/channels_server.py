"""Django Channels on uvicorn, with the layer in memory: one process, as for the others."""

import sys

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

from benchmarks import asgi
from benchmarks.by_path import ECHO, FANOUT, JOINED, ROOMS
from benchmarks.peers import Peer

peer = Peer(
    name="channels",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "plain"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "deflate"],
    echo=ECHO,
    fanout=FANOUT,
    rooms=ROOMS,
    packages=("channels", "django", "uvicorn", "uvloop", "websockets"),
)


class Echoer(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data, bytes_data)


class Subscriber(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.group = f"room.{self.scope['url_route']['kwargs']['room']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send(JOINED.decode())

    async def disconnect(self, code: int) -> None:  # noqa: ARG002  # what a consumer is given
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def say(self, event: dict[str, str]) -> None:
        await self.send(event["text"])


class Publisher(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.group = f"room.{self.scope['url_route']['kwargs']['room']}"
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:  # noqa: ARG002
        await self.channel_layer.group_send(self.group, {"type": "say", "text": text_data})


def main(port: int, *, compression: bool) -> None:
    settings.configure(
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        LOGGING_CONFIG=None,
    )
    django.setup()
    routes = [
        path("echo", Echoer.as_asgi()),
        path("subscribe/<room>", Subscriber.as_asgi()),
        path("publish/<room>", Publisher.as_asgi()),
    ]
    asgi.serve(ProtocolTypeRouter({"websocket": URLRouter(routes)}), port, compression=compression)


if __name__ == "__main__":
    main(int(sys.argv[1]), compression=sys.argv[2] == "deflate")
