"""The project's settings, as hubbub's: ``HUBBUB``, and what ``ALLOWED_HOSTS`` and the like say already."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from django.conf import settings as project

from ...errors import ConfigurationError
from ...settings import Settings, describe
from ...transports.access import Access

PREFIX = "/live"
"""Path under which the hub is if ``HUBBUB["path"]`` says nothing else."""

SESSION_CHECK = 60.0
"""Seconds after which it is looked again whether a connection's session is good, if nothing else is said."""

MORE = ("path", "session_check")
"""What ``HUBBUB`` may have besides hubbub's own settings."""

DEBUG_HOSTS = "localhost, *.localhost, 127.0.0.1, [::1]"
"""Names that Django answers to with DEBUG where ``ALLOWED_HOSTS`` is empty."""

NO_HOSTS = "none.invalid"
"""A name that no request has (RFC 6761 section 6.4): an empty ``ALLOWED_HOSTS`` lets nobody in."""


@dataclass(frozen=True)
class Configuration:
    """What the project's settings say; `problems` are sentences."""

    settings: Settings
    path: str
    session_check: float
    problems: tuple[str, ...]


def read() -> Configuration:
    """Return what the project's settings say. Nothing is raised: a system check shows the problems."""
    values: dict[str, object] = {"allowed_hosts": allowed_hosts(), "allowed_origins": trusted_origins()}
    problems: list[str] = []
    path, session_check = PREFIX, SESSION_CHECK
    given = getattr(project, "HUBBUB", {})
    if not isinstance(given, Mapping):
        problems.append(f"HUBBUB is a {type(given).__name__}; make it a dict.")
        given = {}
    known = {setting.name: setting for setting in describe()}
    for name, value in given.items():
        if name == "path":
            try:
                path = checked_path(value)
            except ConfigurationError as problem:
                problems.append(str(problem))
        elif name == "session_check":
            if isinstance(value, int | float) and 0 <= value < float("inf"):
                session_check = float(value)
            else:
                problems.append(
                    f"HUBBUB['session_check'] is {value!r}; it has to be seconds, or 0 for never."
                )
        elif name not in known:
            near = difflib.get_close_matches(str(name), [*known, *MORE], 1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            problems.append(f"HUBBUB has {name!r}, which is no setting.{meant}")
        else:
            if isinstance(value, list | tuple) and known[name].kind is str:
                value = ", ".join(map(str, value))
            try:
                values[name] = known[name].convert(value, source=f"HUBBUB[{name!r}]")
            except ConfigurationError as problem:
                problems.append(str(problem))
    settings = Settings(**values)  # type: ignore[arg-type]  # each was converted by its setting
    try:
        Access(settings)
    except ConfigurationError as problem:
        problems.append(str(problem))
        settings = msgspec.structs.replace(settings, allowed_hosts=NO_HOSTS, allowed_origins="")
    return Configuration(settings, path, session_check, tuple(problems))


def checked_path(value: object) -> str:
    """Return a path of the hub's own, without the slash at its end."""
    path = value.rstrip("/") if isinstance(value, str) else ""
    if not path.startswith("/"):
        raise ConfigurationError(
            f"HUBBUB['path'] is {value!r}; it has to be a path of the hub's own, such as '{PREFIX}/': "
            "what is below it does not reach your views."
        )
    return path


def allowed_hosts() -> str:
    """Return ``ALLOWED_HOSTS`` as the setting `allowed_hosts` has it.

    Django's ``.example.com`` is the name itself and all below it.
    """
    if project.DEBUG and not project.ALLOWED_HOSTS:
        return DEBUG_HOSTS
    # What is split of an empty variable is one empty name, which to Django is nobody's.
    hosts = [host for host in project.ALLOWED_HOSTS if host]
    return ", ".join(f"{host[1:]}, *{host}" if host.startswith(".") else host for host in hosts) or NO_HOSTS


def trusted_origins() -> str:
    """Return ``CSRF_TRUSTED_ORIGINS`` as `allowed_origins` has it, but for those with a wildcard."""
    return ", ".join(origin.rstrip("/") for origin in project.CSRF_TRUSTED_ORIGINS if "*" not in origin)
