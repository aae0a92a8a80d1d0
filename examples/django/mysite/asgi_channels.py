"""What an ASGI server serves: the views, the hub, and consumers of Django Channels."""

import os

from hubbub.integrations.django import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings_channels")
site = get_asgi_application()  # sets Django up; only then can the rest be imported

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from chat.consumers import ChatConsumer  # noqa: E402
from django.urls import path  # noqa: E402

from hubbub.integrations.django import hub  # noqa: E402

routes = [
    path("ws/chat/<str:name>/", ChatConsumer.as_asgi()),
    path("live/", hub),
]
application = ProtocolTypeRouter(
    {
        "http": site,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(routes))),
        "lifespan": site,
    }
)
