"""What an ASGI server serves."""

import os

from hubbub.integrations.django import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
application = get_asgi_application()
