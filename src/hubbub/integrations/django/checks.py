"""System checks: what ``manage.py check`` and ``check --deploy`` say about a project with a hub."""

from django.conf import settings as project
from django.core import checks
from django.core.checks import CheckMessage, Error, register

from ...brokers import open_broker
from ...errors import ConfigurationError
from . import configuration
from .application import the_hub

TAG = "hubbub"


@register(TAG)
def check_settings(**_: object) -> list[CheckMessage]:
    """What can't work, or not as it looks."""
    hub = the_hub()
    found: list[CheckMessage] = [Error(problem, id="hubbub.E001") for problem in hub.problems]
    if not getattr(project, "ASGI_APPLICATION", None):
        found.append(
            checks.Warning(
                "ASGI_APPLICATION is not set, so that `manage.py hubbub` has nothing to serve.",
                hint="ASGI_APPLICATION = 'mysite.asgi.application', made by "
                "hubbub.integrations.django.get_asgi_application().",
                id="hubbub.W002",
            )
        )
    try:
        shared = open_broker(hub.settings).guarantees.shared
    except ConfigurationError as problem:
        found.append(Error(str(problem), id="hubbub.E003"))
    else:
        if hub.settings.workers > 1 and not shared:
            found.append(
                Error(
                    f"{hub.settings.workers} workers would each have rooms of their own: their broker is one "
                    "process's.",
                    hint="One worker, or HUBBUB = {'broker': 'redis://...'}.",
                    id="hubbub.E004",
                )
            )
    wild = [origin for origin in project.CSRF_TRUSTED_ORIGINS if "*" in origin]
    if wild and hub.settings.allowed_origins == configuration.trusted_origins():
        found.append(
            checks.Warning(
                f"CSRF_TRUSTED_ORIGINS has {', '.join(wild)}: pages from there can't connect to the hub, "
                "which knows no wildcards in origins.",
                hint="Name the origins in HUBBUB['allowed_origins'].",
                id="hubbub.W005",
            )
        )
    missing = [
        app for app in ("django.contrib.auth", "django.contrib.sessions") if app not in project.INSTALLED_APPS
    ]
    if missing and hub.knows_users_by_session:
        found.append(
            checks.Warning(
                f"{' and '.join(missing)} not in INSTALLED_APPS: nobody can be known by a session.",
                hint="Install them, or write an @hub.authenticate hook.",
                id="hubbub.W006",
            )
        )
    return found


@register(TAG, deploy=True)
def check_deployment(**_: object) -> list[CheckMessage]:
    """What is good enough for development only."""
    hub, found = the_hub(), list[CheckMessage]()
    if hub.settings.broker.startswith("memory:"):
        found.append(
            checks.Warning(
                "The hub's rooms are in the memory of one process: they end with it, and other processes, "
                "under WSGI or in a task queue, can't publish.",
                hint="HUBBUB = {'broker': 'redis://...'}, or sqlite:///... for one process whose rooms last.",
                id="hubbub.W007",
            )
        )
    if hub.settings.reload:
        found.append(checks.Warning("HUBBUB['reload'] is for development.", id="hubbub.W008"))
    if hub.settings.allowed_hosts.strip() == "*":
        found.append(
            checks.Warning("The hub answers to any host name.", hint="Set ALLOWED_HOSTS.", id="hubbub.W009")
        )
    if "*" in [origin.strip() for origin in hub.settings.allowed_origins.split(",")]:
        found.append(
            checks.Warning(
                "Pages from everywhere may connect to the hub, with your users' cookies.",
                hint="Name their origins in HUBBUB['allowed_origins'].",
                id="hubbub.W010",
            )
        )
    return found
