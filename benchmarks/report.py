"""The figures: as tables for people, and as a file with all that is needed to judge or repeat them."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.activity import SATURATED, Activity
from benchmarks.peers import Peer
from benchmarks.rounds import Results


def table(results: Results) -> Table:
    """One line for each peer, with the first peer's ratio to it."""
    first = next(iter(results.readings))
    shown = Table(title=f"{results.work.name}: {results.work.unit}", title_justify="left", box=SIMPLE)
    shown.pad_edge = False
    shown.collapse_padding = True
    shown.add_column("\npeer", no_wrap=True)
    for heading in ("\nmedian", "\nspread", f"{first}\n/ peer", "server\nbusy", "generator\nbusy", "\nnoise"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for peer, readings in results.readings.items():
        middle, values, ratios = results.median(peer), results.values(peer), results.ratios(peer)
        bound = median(reading.generator.busy for reading in readings) >= SATURATED
        shown.add_row(
            peer,
            f"{'≥ ' if bound else ''}{middle:,.0f}",
            f"{(max(values) - min(values)) / middle:.0%}",
            "" if peer == first else f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{median(reading.server.busy for reading in readings):.0%}",
            f"{median(reading.generator.busy for reading in readings):.0%}",
            f"{max(max(reading.server.waiting, reading.generator.waiting) for reading in readings):.0%}",
        )
    return shown


def write(
    folder: Path,
    name: str,
    peers: Sequence[Peer],
    options: Mapping[str, object],
    done: Sequence[Results],
) -> Path:
    """Write everything to `<date>-<name>.json` in `folder`, over an older one; return its path."""
    now = datetime.now().astimezone()
    packages = sorted({package for peer in peers for package in peer.packages})
    document = {
        "name": name,
        "date": now.isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "kernel": f"{platform.system()} {platform.release()}",
            "python": f"{platform.python_implementation()} {platform.python_version()}",
        },
        "packages": {package: version(package) for package in packages},
        "options": options,
        "works": [_work(results) for results in done],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _work(results: Results) -> dict[str, object]:
    return {
        "name": results.work.name,
        "unit": results.work.unit,
        "compared": next(iter(results.readings)),
        "peers": {
            peer: {
                "median": round(results.median(peer), 1),
                "ratio": round(median(results.ratios(peer)), 3),
                "ratios": [round(ratio, 3) for ratio in results.ratios(peer)],
                "rounds": [
                    {
                        "value": round(reading.value, 1),
                        "seconds": round(reading.seconds, 3),
                        "server": _shares(reading.server),
                        "generator": _shares(reading.generator),
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
