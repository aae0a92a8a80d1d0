"""``manage.py hubbub``: serve the project as ``hubbub serve`` does."""

import argparse
import os
import sys

from django.conf import settings as project
from django.core.management.base import BaseCommand, CommandError, CommandParser

from hubbub.settings import Setting, describe


class Command(BaseCommand):
    """Every setting is an option; what ``HUBBUB`` says applies without them, as does the environment."""

    help = "Serves the project with hubbub's server: HTTP and live connections. With DEBUG it reloads."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the address, as ``runserver`` takes it, and an option for each setting."""
        parser.add_argument(
            "addrport", nargs="?", help="Port, or address and port: 8000, 0.0.0.0:8000, [::1]:8000."
        )
        for setting in describe():
            _add(parser, setting)

    def handle(self, *_: object, addrport: str | None = None, **options: object) -> None:
        """Serve until a signal ends it."""
        target = getattr(project, "ASGI_APPLICATION", None)
        if not target:
            raise CommandError(
                "ASGI_APPLICATION is not set; it says what to serve: 'mysite.asgi.application'."
            )
        module, _, name = target.rpartition(".")
        if addrport is not None:
            options["host"], options["port"] = _address(addrport, options)
        environment = os.environ.copy()
        if project.DEBUG and "reload" not in getattr(project, "HUBBUB", {}):
            environment.setdefault("HUBBUB_RELOAD", "true")
        for setting in describe():
            if options.get(setting.name) is not None:
                environment[setting.variable] = str(options[setting.name])
        self.check_migrations()
        # Where manage.py is, and --pythonpath.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.stdout.flush()
        # In this process the hub was made before the options were read.
        command = [sys.executable, "-m", "hubbub", "serve", f"{module}:{name}"]
        os.execve(sys.executable, command, environment)  # noqa: S606


def _add(parser: CommandParser, setting: Setting) -> None:
    kind, named = setting.kind, {"dest": setting.name, "default": None}
    about = f"{setting.description} [{setting.variable}]".replace("%", "%%")
    if kind is bool:
        parser.add_argument(setting.option, action=argparse.BooleanOptionalAction, help=about, **named)
    elif isinstance(kind, tuple):
        parser.add_argument(setting.option, choices=kind, help=about, **named)
    else:
        parser.add_argument(setting.option, type=kind, help=about, **named)


def _address(text: str, options: dict[str, object]) -> tuple[object, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        raise CommandError(f"{text!r} is no port, nor an address and a port.")
    return (host.strip("[]") or options.get("host")), int(port)
