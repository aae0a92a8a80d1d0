"""The chat in a Django project."""

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="only for the tests",
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "hubbub.integrations.django",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    ROOT_URLCONF="matrix.django_host",
)
django.setup()

from hubbub.integrations.django import get_asgi_application, hub  # noqa: E402  # when Django is set up
from matrix.application import chat  # noqa: E402

urlpatterns: list[object] = []
chat(hub)
application = get_asgi_application()
