"""The chat in a Django project, beside consumers of Channels."""

from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

from matrix.django_host import hub


class Consumer(AsyncWebsocketConsumer):
    pass


application = ProtocolTypeRouter(
    {
        "http": URLRouter([path("live/", hub), re_path(r"", get_asgi_application())]),
        "websocket": AuthMiddlewareStack(
            URLRouter([path("live/", hub), path("consumer/", Consumer.as_asgi())])
        ),
    }
)
