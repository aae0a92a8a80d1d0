"""``hubbub routes``: what an application serves."""

import json
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from .. import server
from ..app import Hubbub
from ..engine.router import Router
from ..errors import ConfigurationError


def routes(
    target: Annotated[str, typer.Argument(help="What to look at, as module:object.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole schemas.")] = False,
) -> None:
    """Show what an application serves: endpoints, rooms, messages with their schemas."""
    hub = find_hub(server.load(target))
    if as_json:
        print(json.dumps(describe(hub), indent=2))
        return
    console = Console()
    for table in _tables(describe(hub)):
        console.print(table)


def find_hub(app: object) -> Hubbub:
    """Return the hub that an application is, or has mounted; :exc:`ConfigurationError` if there is none."""
    found = next(_hubs(app, set()), None)
    if found is None:
        raise ConfigurationError(
            "This application has no Hubbub in it: neither itself nor mounted in its routes."
        )
    return found


def _hubs(app: object, seen: set[int]) -> Iterator[Hubbub]:
    if app is None or id(app) in seen:
        return
    seen.add(id(app))
    if isinstance(app, Hubbub):
        yield app
        return
    for route in getattr(app, "routes", None) or ():
        yield from _hubs(getattr(route, "app", None), seen)
    yield from _hubs(getattr(app, "app", None), seen)


def describe(hub: Hubbub) -> dict[str, object]:
    """Return what a hub serves, JSON-like."""
    return {
        "path": hub.path,
        "endpoints": [
            {"path": endpoint.pattern.text, "handler": endpoint.handler.place} for endpoint in hub.endpoints
        ],
        "rooms": [
            {
                "pattern": rooms.pattern.text,
                "history": rooms.retention.count,
                "history_age": rooms.retention.age,
                "presence": rooms.presence,
                "declared": rooms.place,
                "messages": _messages(rooms.router),
            }
            for rooms in hub.rooms
        ],
        "messages": _messages(hub.router),
    }


def _messages(router: Router) -> list[dict[str, object]]:
    return [
        {"type": name, "handler": handler.callback.place, "schema": handler.schema.describe()}
        for name, handler in sorted(router.handlers.items())
    ]
