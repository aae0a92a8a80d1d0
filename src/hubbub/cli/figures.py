"""What ``hubbub soak`` shows people."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..soak.ledger import Breach
from ..soak.report import Report
from ..soak.storm import StormReport

MB = 2**20
SATURATED = 0.9
"""Share of a core from which on a process counts as busy all the time."""


def tables(report: Report) -> list[RenderableType]:
    """Return what a soak's figures look like, with a sentence about what they come to."""
    recovery = _three(report.recovery_p50, report.recovery_p99, report.recovery_max)
    gone = _three(report.gone_p50, report.gone_p99, report.gone_max)
    troubled = report.broker_away or report.broker_cuts or report.partitions
    memory = report.memory
    rows = {
        "published": f"{report.published:,} in {report.seconds:,.1f} s",
        "acknowledged": f"{report.acknowledged:,}",
        "unacknowledged": f"{report.unacknowledged:,}, {report.uncertain:,} of them published",
        "refused": f"{report.refused:,}",
        "put off": f"{report.put_off:,}, {report.landed:,} of them acknowledged afterwards",
        "received": f"{report.receipts:,}",
        **{str(breach): f"{report.breaches[breach]:,}" for breach in Breach},
        "gaps told": f"{report.gaps:,}, over {report.in_gaps:,} messages",
        "faults": f"{report.faults.total():,}",
        "server killed": f"{report.kills:,}",
        "server restarted": f"{report.restarts:,}" if report.restarts else "",
        "broker away": "   ".join(map(_seconds, report.broker_away)),
        "broker's connections cut": f"{report.broker_cuts:,}" if report.broker_cuts else "",
        "server parted from broker": f"{report.partitions:,}" if report.partitions else "",
        "acknowledgements lost": f"{report.lost_acknowledgements:,}",
        "lines lost": f"{report.lines_lost:,}"
        + (f", {report.lines_lost_with_broker:,} of them without the broker" if troubled else ""),
        "without a line p50, p99, max": gone if report.gone_max else "",
        "recovery p50, p99, max": recovery if report.recoveries else "",
        "server memory": f"{_megabytes(memory.begin)} at first, {_megabytes(memory.peak)} at most, "
        f"{_megabytes(memory.end)} at the end"
        if memory.begin
        else "",
    }
    shown: list[RenderableType] = [_table({name: [row] for name, row in rows.items() if row})]
    shown += [Text(told) for told in report.told]
    if report.log:
        shown.append(Text(f"The end of the server's log:\n{report.log}"))
    if report.interrupted:
        shown.append(Text("Interrupted: this is judged as far as it came."))
    verdict = "Nothing was lost, doubled or out of order." if report.sound else "The promise was broken."
    shown.append(Text(f"{verdict} Seed {report.seed}."))
    return shown


def storm_tables(reports: Sequence[StormReport]) -> list[RenderableType]:
    """Return what the figures of storms look like, beside each other."""
    rows = {
        "clients": [f"{report.clients:,}" for report in reports],
        "no server for": [_seconds(report.down) for report in reports],
        "all caught up after": [_seconds(report.seconds) for report in reports],
        "recovery p50": [_seconds(report.recovery_p50) for report in reports],
        "recovery p99": [_seconds(report.recovery_p99) for report in reports],
        "back in the busiest second": [f"{report.back_in_busiest:,}" for report in reports],
        "server busy in its busiest second": [f"{report.server_busy:.0%}" for report in reports],
        "clients busy in their busiest second": [f"{report.clients_busy:.0%}" for report in reports],
        "server memory before": [_megabytes(report.memory.begin) for report in reports],
        "server memory at most": [_megabytes(report.memory.peak) for report in reports],
        "gaps told": [f"{report.gaps:,}" for report in reports],
        **{str(breach): [f"{report.breaches.get(breach, 0):,}" for report in reports] for breach in Breach},
    }
    headings = ["with jitter" if report.jitter else "without jitter" for report in reports]
    shown: list[RenderableType] = [_table(rows, headings)]
    shown += [Text(told) for report in reports for told in report.told]
    if any(report.clients_busy > SATURATED for report in reports):
        shown.append(Text("The clients were busy all the time: they could not come back any faster."))
    if all(report.sound for report in reports):
        shown.append(Text("All clients came back, and nothing was lost or doubled."))
    else:
        shown.append(Text("The promise was broken."))
    return shown


def _table(rows: Mapping[str, Sequence[str]], headings: Sequence[str] = ()) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, show_header=bool(headings))
    table.add_column("")
    for column in range(max(len(row) for row in rows.values())):
        table.add_column(headings[column] if headings else "", justify="right" if headings else "left")
    for name, row in rows.items():
        table.add_row(name, *row)
    return table


def _three(p50: float, p99: float, most: float) -> str:
    return f"{_seconds(p50)}   {_seconds(p99)}   {_seconds(most)}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _megabytes(size: int) -> str:
    return f"{size / MB:,.0f} MB"
