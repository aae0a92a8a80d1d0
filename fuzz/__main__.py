"""`python -m fuzz`: fuzz the targets, one after the other, each in a process of its own.

Exits with 1 for a finding, and says where the input lies that shows it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import CORPUS, FOUND, TARGETS

LONGEST_INPUT = 2048
"""Bytes of an input: all that is decided is decided in fewer, and short ones run faster."""

HANGS_AFTER = 10
"""Seconds for one input after which it is a finding."""

MOST_MEMORY = 1024
"""Megabytes past which it is one, too."""

GRACE = 120
"""Seconds past a run's time within which it has to have come to its end."""

TOLD_OF_A_FINDING = 40
"""Lines of what a target said last."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    target: Annotated[
        list[str] | None, typer.Option(help=f"Target to fuzz; may be repeated: {', '.join(TARGETS)}.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, help="Time for all of them together.")] = 80,
    seed: Annotated[
        int, typer.Option(min=0, help="The same inputs as with this seed before; 0 is others each time.")
    ] = 0,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Put into the corpus what reaches something that nothing there does."),
    ] = False,
) -> None:
    """Fuzz with inputs that begin with the corpus and with what earlier runs found."""
    chosen = target or list(TARGETS)
    if unknown := set(chosen) - set(TARGETS):
        raise typer.BadParameter(f"There is no {', '.join(sorted(unknown))}. There is {', '.join(TARGETS)}.")
    findings: list[Path] = []
    for name in chosen:
        findings += _fuzz(name, max(1, seconds // len(chosen)), seed)
        if keep:
            _keep(name)
    for path in findings:
        print(f"A finding. To see it again: {sys.executable} -m fuzz.replay {path}")
    sys.exit(1 if findings else 0)


def _fuzz(target: str, seconds: int, seed: int) -> list[Path]:
    """Fuzz one target, print what came of it, and return the inputs that it fails on."""
    inputs = FOUND / target / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    output = _run(
        target, f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}", f"-timeout={HANGS_AFTER}",
        f"-rss_limit_mb={MOST_MEMORY}", f"-artifact_prefix={FOUND / target}/", "-print_final_stats=1",
        f"-seed={seed}", str(inputs), str(CORPUS / target), within=seconds + GRACE,
    )  # fmt: skip
    summary = _summary(output.stdout)
    print(f"{target}: {summary or 'nothing was run'}", flush=True)
    if output.returncode == 0 and summary:
        return []
    print("\n".join(line[:300] for line in output.stdout.splitlines()[-TOLD_OF_A_FINDING:]))
    written = re.findall(r"Test unit written to (.+)", output.stdout)
    if not written:
        raise SystemExit(f"{target} could not be fuzzed; see above.")
    return [Path(path) for path in written]


def _keep(target: str) -> None:
    before = set((CORPUS / target).iterdir())
    # By places alone: how often each is reached tells the fuzzer more, but takes many more inputs.
    merge = ("-set_cover_merge=1", "-use_counters=0", f"-max_len={LONGEST_INPUT}")
    output = _run(target, *merge, str(CORPUS / target), str(FOUND / target / "inputs"), within=600)
    if output.returncode:
        raise SystemExit(f"{target}: the corpus could not be merged.\n{output.stdout}")
    print(f"{target}: {len(set((CORPUS / target).iterdir()) - before)} inputs were put into the corpus.")


def _run(target: str, *options: str, within: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzz.guided", target, *options],
        cwd=CORPUS.parents[1],
        env=os.environ | {"PYTHONHASHSEED": "0"},  # one seed is enough for the inputs to be others
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=within,
    )


def _summary(output: str) -> str:
    """Return the figures that libFuzzer gave: places of code reached, at first and at last. Empty if none."""
    reached = re.findall(r"(?:INITED|DONE|NEW|REDUCE|pulse) +cov: (\d+) ft: (\d+) corp: (\d+)", output)
    runs = re.findall(r"^#(\d+)\s", output, re.MULTILINE)
    rate = re.findall(r"average_exec_per_sec: +(\d+)", output)
    if not reached or not runs:
        return ""
    (first, first_features, _), (last, last_features, inputs) = reached[0], reached[-1]
    return (
        f"{int(runs[-1]):,} inputs run" + (f", {int(rate[0]):,}/s" if rate else "") + f"; places reached "
        f"{first} -> {last}, features {first_features} -> {last_features}, {inputs} inputs needed for them"
    )


if __name__ == "__main__":
    app()
