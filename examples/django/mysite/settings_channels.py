"""The same project with Django Channels beside: some consumers are there already, and stay for now."""

from mysite.settings import *  # noqa: F403
from mysite.settings import INSTALLED_APPS

INSTALLED_APPS = ["channels", *INSTALLED_APPS]
ASGI_APPLICATION = "mysite.asgi_channels.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "hubbub.integrations.channels.HubbubChannelLayer",
        # On the hub's broker. The group chat_lobby is the room chat/lobby.
        "CONFIG": {"rooms": {"chat_{name}": "chat/{name}"}},
    }
}
