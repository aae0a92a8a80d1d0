"""The figures: as tables for people, and as a file with all that is needed to judge or repeat them."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import median

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.activity import SATURATED, Activity
from benchmarks.peers import Peer
from benchmarks.rounds import Results

RESULTS = Path(__file__).parent / "results"


def table(results: Results) -> Table:
    """One line for each peer, with the first peer's ratio to it."""
    first = next(iter(results.readings), "")
    work = results.work
    better = "; less is better" if work.lower_is_better else ""
    shown = Table(title=f"{work.name}: {work.unit}{better}", title_justify="left", box=SIMPLE)
    shown.pad_edge = False
    shown.collapse_padding = True
    shown.add_column("\npeer", no_wrap=True)
    also = [f"\n{heading}" for heading in work.also.values()]
    for heading in (
        *("\nmedian", *also, "\nspread", f"{first}\n/ peer"),
        *("server\nbusy", "generator\nbusy", "\nnoise"),
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    mark = "≤ " if work.lower_is_better else "≥ "
    for peer, readings in results.readings.items():
        middle, values, ratios = results.median(peer), results.values(peer), results.ratios(peer)
        bound = work.limited and median(reading.generator.busy for reading in readings) >= SATURATED
        shown.add_row(
            peer,
            f"{mark if bound else ''}{number(middle)}",
            *(number(median(reading.details[name] for reading in readings)) for name in work.also),
            f"{(max(values) - min(values)) / middle:.0%}",
            "" if peer == first else f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{median(reading.server.busy for reading in readings):.0%}",
            f"{median(reading.generator.busy for reading in readings):.0%}",
            f"{max(max(reading.server.waiting, reading.generator.waiting) for reading in readings):.0%}",
        )
    return shown


def failures(results: Results) -> list[str]:
    """A sentence for each peer that failed."""
    return [f"{peer} failed at {results.work.name}: {reason}" for peer, reason in results.failures.items()]


def number(value: float) -> str:
    """A figure as people read it, to three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write(
    folder: Path,
    name: str,
    peers: Sequence[Peer],
    options: Mapping[str, object],
    done: Sequence[Results],
) -> Path:
    """Write everything that was measured of these peers; return the file's path."""
    versions = {name: told for peer in peers for name, told in peer.all_versions().items()}
    works = [_work(results) for results in done]
    return save(
        folder, name, {"packages": dict(sorted(versions.items())), "options": options, "works": works}
    )


def save(folder: Path, name: str, figures: Mapping[str, object]) -> Path:
    """Write figures, and of which machine, to `<date>-<name>.json`, over an older one; return its path."""
    now = datetime.now().astimezone()
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    document = {"name": name, "date": now.isoformat(timespec="seconds"), "machine": machine, **figures}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _work(results: Results) -> dict[str, object]:
    return {
        "name": results.work.name,
        "unit": results.work.unit,
        "better": "lower" if results.work.lower_is_better else "higher",
        "compared": next(iter(results.readings), None),
        "failures": results.failures,
        "peers": {
            peer: {
                "median": round(results.median(peer), 3),
                "ratio": round(median(results.ratios(peer)), 3),
                "ratios": [round(ratio, 3) for ratio in results.ratios(peer)],
                "rounds": [
                    {
                        "value": round(reading.value, 3),
                        "seconds": round(reading.seconds, 3),
                        "server": _shares(reading.server),
                        "generator": _shares(reading.generator),
                        **{name: round(value, 3) for name, value in reading.details.items()},
                    }
                    for reading in readings
                ],
            }
            for peer, readings in results.readings.items()
        },
    }


def _shares(activity: Activity) -> dict[str, float]:
    return {name: round(share, 3) for name, share in asdict(activity).items()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
