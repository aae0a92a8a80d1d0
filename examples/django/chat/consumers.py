"""A consumer of Django Channels, as it was before there was a hub."""

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from chat.models import Saying


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """One client's line: it knows rooms as groups of the channel layer."""

    async def connect(self) -> None:
        """Let users in."""
        self.name = self.scope["url_route"]["kwargs"]["name"]
        if not self.scope["user"].is_authenticated:
            await self.close()
            return
        await self.channel_layer.group_add(f"chat_{self.name}", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:  # noqa: ARG002
        """Leave the group."""
        await self.channel_layer.group_discard(f"chat_{self.name}", self.channel_name)

    async def receive_json(self, content: dict[str, str]) -> None:
        """Keep what the client says, and tell the group: clients of the hub are in it, too."""
        user = self.scope["user"]
        saying = await Saying.objects.acreate(author=user, room=self.name, text=content["text"])
        said = {"type": "said", "id": saying.pk, "author": user.get_username(), "text": saying.text}
        await self.channel_layer.group_send(f"chat_{self.name}", said)

    async def said(self, event: dict[str, object]) -> None:
        """Tell the client what was said, by a consumer or through the hub."""
        await self.send_json({"author": event["author"], "text": event["text"]})
