"""The tables in the documentation that the code knows best.

``python tests/docs/generate.py`` writes them into the pages, between their markers. A test compares.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

from msgspec import Meta

from hubbub import CloseCode
from hubbub.protocol.codes import ErrorCode
from hubbub.settings import Setting, describe

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]  # benchmarks and tests are no part of what is installed

from benchmarks import sizing, storms  # noqa: E402
from matrix.differences import BEHAVIOURS, DIFFERENCES, difference, inapplicable  # noqa: E402
from matrix.hosts import HOSTS  # noqa: E402
from matrix.lines import LINES  # noqa: E402
from matrix.servers import FACTS, SERVERS  # noqa: E402

PAGES = ["docs/compatibility.md", "docs/protocol.md", "docs/scaling.md", "docs/settings.md"]

_TABLE = re.compile(r"(<!-- table: (?P<name>[\w ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def close_codes() -> str:
    rows = ([str(int(code)), code.meaning, "yes" if code.comes_back else "no"] for code in CloseCode)
    return table(["code", "meaning", "come back by yourself"], rows)


def error_codes() -> str:
    rows = ([f"`{code.value}`", code.meaning, "yes" if code.retry else "no"] for code in ErrorCode)
    return table(["code", "meaning", "retry"], rows)


def settings() -> str:
    groups: dict[str, list[list[str]]] = {}
    for setting in describe():
        default = "none" if setting.default is None else f"`{_written(setting.default)}`"
        value = ", ".join(_kind(setting))
        row = [f"`{setting.name}`", f"`{setting.variable}`", value, default, setting.description]
        groups.setdefault(setting.group, []).append(row)
    heads = ["setting", "environment", "value", "default", "meaning"]
    return "\n".join(f"### {group}\n\n{table(heads, rows)}" for group, rows in groups.items())


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _kind(setting: Setting) -> Iterator[str]:
    kind = setting.kind
    if isinstance(kind, tuple):
        yield " or ".join(f"`{choice}`" for choice in kind)
    else:
        yield {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}[kind]
    for meta in get_args(setting.annotation):
        if isinstance(meta, Meta):
            for limit, words in ((meta.ge, "at least"), (meta.gt, "more than"), (meta.le, "at most")):
                if limit is not None:
                    yield f"{words} {limit:g}"


def lines_and_hosts() -> str:
    """Return the matrix: in each cell how many behaviours are as promised, and those that differ."""

    def cell(line: str, host: str) -> str:
        if inapplicable(line, host) is not None:
            return "-"
        differing = [name for name in BEHAVIOURS if difference(name, line, host) is not None]
        rest = f"all but {', '.join(differing)}" if differing else "all"
        return f"{rest} ({len(BEHAVIOURS) - len(differing)})"

    rows = ([host.title, *(cell(line.name, host.name) for line in LINES)] for host in HOSTS)
    return table(["", *(line.title for line in LINES)], rows)


def behaviours() -> str:
    return table(["behaviour", "what is promised"], ([name, text] for name, text in BEHAVIOURS.items()))


def differences() -> str:
    lines = {line.name: line.title for line in LINES} | {"*": "all lines"}
    hosts = {host.name: host.title for host in HOSTS} | {"*": "all hosts"}
    rows = (
        [behaviour, lines[line], hosts[host], known.reason]
        for (behaviour, line, host), known in DIFFERENCES.items()
    )
    return table(["behaviour", "line", "host", "what is seen, and why"], rows)


def servers() -> str:
    rows = (
        [fact.question, *("no" if server.name in fact.lacking else "yes" for server in SERVERS), fact.mended]
        for fact in FACTS.values()
    )
    return table(["the server", *(server.name for server in SERVERS), "where not"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "close codes": close_codes,
    "error codes": error_codes,
    "settings": settings,
    "lines and hosts": lines_and_hosts,
    "behaviours": behaviours,
    "differences": differences,
    "servers": servers,
    "inputs": lambda: table(["what", "figure", "", "where it is from"], sizing.inputs()),
    "fleets": lambda: table(["", *map(sizing.amount, sizing.SIZES)], sizing.fleets()),
    "limits": lambda: table(["what", "what is used up", "up to so many connections"], sizing.limits()),
    "storms": lambda: table(storms.STORM_HEADS, storms.storms()),
    "rolling restarts": lambda: table(storms.ROLLING_HEADS, storms.rollings()),
    "calibration": lambda: table(storms.CALIBRATION_HEADS, storms.calibration()),
}


def fill(page: str) -> str:
    """Return a page's text with its tables as they should be."""
    return _TABLE.sub(lambda found: found[1] + "\n" + TABLES[found["name"]]() + "\n" + found[3], page)


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(fill(path.read_text()))
