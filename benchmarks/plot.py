"""`python -m benchmarks.plot RESULTS PICTURE`: draw a file of figures as an SVG, the same bytes each time."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Self
from xml.sax.saxutils import escape, quoteattr

import typer

from benchmarks.activity import SATURATED
from benchmarks.report import number

WIDTH = 880
MARGIN = 20
COLUMN = (WIDTH - 3 * MARGIN) / 2
NAMES = 82
"""Width of the peers' names; the bars begin there."""
VALUES = 80
"""Width of the values, which stand behind the longest bar."""
ROW = 18
BAR = 11
HEADING = 42

# A picture has a background of its own, so it can be read whatever the page has.
STYLE = """
text { font: 12px system-ui, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1f2328 }
.heading { font-size: 13px; font-weight: 600 }
.note { fill: #59636e }
.own { font-weight: 600 }
.page { fill: #ffffff }
rect.bar { fill: #b6bfc9 }
rect.own { fill: #0969da }
rect.second { fill: #80b3ee }
.spread { stroke: #1f2328; stroke-width: 1.2; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.note { fill: #9198a1 }
.page { fill: #0d1117 }
rect.bar { fill: #545d68 }
rect.own { fill: #4493f8 }
rect.second { fill: #2a5793 }
.spread { stroke: #f0f6fc }
}
"""


@dataclass(frozen=True)
class Bar:
    """One peer's figures in one work."""

    peer: str
    value: float
    """The median of the rounds."""
    lowest: float
    highest: float
    label: str

    @classmethod
    def of(cls, peer: str, figures: dict[str, Any], *, higher_is_better: bool) -> Self:
        rounds = figures["rounds"]
        values = [each["value"] for each in rounds]
        busy = median(each["generator"]["working"] + each["generator"]["waiting"] for each in rounds)
        mark = "≥ " if higher_is_better and busy >= SATURATED else ""
        return cls(peer, figures["median"], min(values), max(values), mark + number(figures["median"]))


def draw(document: dict[str, Any]) -> str:
    """Return the picture: a panel for each work, in it a bar for each peer, the best on top.

    The line across the end of a bar goes from the lowest round to the highest. The floor is left out: it
    does no work, so it says something about the load generator only.
    """
    parts: list[str] = []
    top = float(MARGIN)
    works = document["works"]
    for first in range(0, len(works), 2):
        heights = [
            _panel(parts, work, MARGIN + column * (COLUMN + MARGIN), top)
            for column, work in enumerate(works[first : first + 2])
        ]
        top += max(heights) + MARGIN
    machine, options = document["machine"], document["options"]
    for line in (
        f"{document['date'][:10]} · {machine['processor']} · {machine['kernel']} · {machine['python']}",
        f"The server has one core. Bars are medians of {options['rounds']} rounds; "
        "the line on each goes from the lowest round to the highest.",
    ):
        parts.append(_text(MARGIN, top, line, "note"))
        top += ROW
    title = "Benchmarks: " + "; ".join(work["name"] for work in works)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:g}" '
        f'viewBox="0 0 {WIDTH} {top:g}" role="img" aria-label={quoteattr(title)}>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="page" width="{WIDTH}" height="{top:g}" rx="6"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(parts: list[str], work: dict[str, Any], left: float, top: float) -> float:
    """Draw one work; return the height that it takes."""
    higher = work.get("better", "higher") == "higher"
    bars = [
        Bar.of(peer, figures, higher_is_better=higher)
        for peer, figures in work["peers"].items()
        if peer != "floor"
    ]
    bars.sort(key=lambda bar: bar.value, reverse=higher)
    parts.append(_text(left, top + 12, work["name"], "heading"))
    parts.append(_text(left, top + 28, work["unit"] + ("" if higher else "; less is better"), "note"))
    longest = max((bar.highest for bar in bars), default=0) or 1
    scale = (COLUMN - NAMES - VALUES) / longest
    start = left + NAMES
    y = top + HEADING
    for bar in bars:
        kind = {"hubbub": "own", "hubbub-asgi": "second"}.get(bar.peer, "")
        middle, end = y + BAR / 2, bar.value * scale
        low, high = start + bar.lowest * scale, start + bar.highest * scale
        parts += [
            _text(left, y + BAR - 1, bar.peer, kind),
            f'<rect class="bar {kind}" x="{start:g}" y="{y:g}" width="{end:.1f}" height="{BAR}"/>',
            f'<path class="spread" d="M{low:.1f} {middle:g}H{high:.1f}"/>',
            _text(max(high, start + end) + 6, y + BAR - 1, bar.label, kind),
        ]
        y += ROW
    for peer in work.get("failures", ()):
        parts += [_text(left, y + BAR - 1, peer, ""), _text(start, y + BAR - 1, "failed", "note")]
        y += ROW
    return y - top


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def main(
    results: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File of figures.")],
    picture: Annotated[Path, typer.Argument(dir_okay=False, help="The SVG; an older one is overwritten.")],
) -> None:
    """Draw a file of figures that `python -m benchmarks` has written."""
    try:
        drawn = draw(json.loads(results.read_text()))
    except (ValueError, KeyError, TypeError) as problem:
        raise typer.BadParameter(
            f"{results} is no file of figures from benchmarks/results: {problem!r}"
        ) from None
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(drawn)


if __name__ == "__main__":
    typer.run(main)
