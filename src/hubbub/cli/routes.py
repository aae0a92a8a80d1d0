"""``hubbub routes``: what an application serves."""

import json
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import server
from ..app import Hubbub
from ..brokers import open_broker
from ..engine.router import Router
from ..errors import ConfigurationError


def routes(
    target: Annotated[str, typer.Argument(help="What to look at, as module:object.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole schemas.")] = False,
) -> None:
    """Show what an application serves, and on what: paths, rooms, messages with their schemas, the broker.

    The broker is asked nothing.
    """
    hub = server.find_hub(server.load(target))
    if hub is None:
        raise ConfigurationError(f"{target} has no Hubbub in it, neither itself nor mounted.")
    if as_json:
        print(json.dumps(describe(hub), indent=2))
        return
    console = Console()
    for table in _tables(hub):
        console.print(table)


def describe(hub: Hubbub) -> dict[str, object]:
    """Return what a hub serves, JSON-like."""
    return {
        "broker": _broker(hub),
        "path": hub.path,
        "http": hub.http_paths,
        "endpoints": [
            {"path": endpoint.pattern.text, "handler": endpoint.handler.place} for endpoint in hub.endpoints
        ],
        "rooms": [
            {
                "pattern": rooms.pattern.text,
                "history": rooms.retention.count,
                "history_age": rooms.retention.age,
                "presence": rooms.presence,
                "bans": rooms.bans,
                "slow": rooms.slow,
                "declared": rooms.place,
                "messages": _messages(rooms.router),
            }
            for rooms in hub.rooms
        ],
        "messages": _messages(hub.router),
    }


def _broker(hub: Hubbub) -> dict[str, object]:
    broker = hub.broker or open_broker(hub.settings)
    # No more of the URL: what follows may be a password.
    name = type(broker).__name__ if hub.broker else f"{hub.settings.broker.partition(':')[0]}://"
    return {"name": name, "shared": broker.guarantees.shared, "durable": broker.guarantees.durable}


def _messages(router: Router) -> list[dict[str, object]]:
    return [
        {"type": name, "handler": handler.callback.place, "schema": handler.schema.describe()}
        for name, handler in sorted(router.handlers.items())
    ]


def _tables(hub: Hubbub) -> Iterator[Table]:
    broker = _broker(hub)
    table = _table("Broker", "broker", "shared by processes", "history outlives them")
    table.add_row(escape(str(broker["name"])), _yes(broker["shared"]), _yes(broker["durable"]))
    yield table
    paths = _table("Paths", "path", "what", "handler")
    paths.add_row(escape(hub.path), "rooms and messages", "")
    for endpoint in hub.endpoints:
        paths.add_row(escape(endpoint.pattern.text), "bare WebSocket", escape(endpoint.handler.place))
    for path in hub.http_paths:
        paths.add_row(escape(path), "HTTP", "")
    yield paths
    if hub.rooms:
        table = _table("Rooms", "name", "history", "presence", "bans", "slow readers", "declared")
        for rooms in hub.rooms:
            kept = rooms.retention
            history = f"{kept.count} for {_span(kept.age)}" if kept.count else "no"
            options = history, _yes(rooms.presence), _yes(rooms.bans), rooms.slow
            table.add_row(escape(rooms.pattern.text), *options, escape(rooms.place))
        yield table
    routers = [(rooms.pattern.text, rooms.router) for rooms in hub.rooms] + [("", hub.router)]
    if any(router.handlers for _, router in routers):
        table = _table("Messages", "type", "room", "data", "handler")
        for room, router in routers:
            for name, handler in sorted(router.handlers.items()):
                data = "\n".join(_properties(handler.schema.describe()))
                table.add_row(escape(name), escape(room), escape(data), escape(handler.callback.place))
        yield table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _yes(whether: object) -> str:
    return "yes" if whether else "no"


def _span(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {name}"
    return f"{seconds:g} s"


def _properties(schema: dict[str, object]) -> Iterator[str]:
    """Yield a line for each field of a JSON Schema: its name, type and limits."""
    definitions, reference = schema.get("$defs", {}), schema.get("$ref")
    if isinstance(reference, str) and isinstance(definitions, dict):
        schema = definitions[reference.rpartition("/")[2]]
    properties, required = schema.get("properties", {}), schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    for name, about in properties.items():
        kind = about.get("type") or "|".join(
            str(choice.get("type", "…")) for choice in about.get("anyOf", ())
        )
        bounds = sorted((key for key in about if key.startswith(("min", "max"))), reverse=True)
        limits = [f"{key}={about[key]}" for key in bounds]
        optional = "" if name in required else "?"
        yield f"{name}{optional}: {' '.join([kind or '…', *limits])}"
