"""The commands, and how their errors are shown."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .. import __version__
from ..errors import HubbubError
from .bench import bench
from .chaos import chaos
from .connect import connect
from .routes import routes
from .serve import demo, serve
from .soak import soak

app = typer.Typer(
    name="hubbub",
    help="The real-time layer for Python: serve rooms, look at them, talk to them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"hubbub {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command(rich_help_panel="Run")(serve)
app.command(rich_help_panel="Run")(demo)
app.command(rich_help_panel="Look")(connect)
app.command(rich_help_panel="Look")(bench)
app.command(rich_help_panel="Look")(chaos)
app.command(rich_help_panel="Look")(routes)
app.command(rich_help_panel="Look")(soak)


def main() -> None:
    """Run the command line; what can't work is told in a sentence, with exit status 1."""
    try:
        app()
    except HubbubError as problem:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]hubbub:[/] {escape(str(problem))}")
        sys.exit(1)
