"""``hubbub serve`` and ``hubbub demo``: every setting is an option."""

import inspect
import os
from typing import Annotated, Literal, Optional

import typer

from .. import server
from ..settings import Setting, describe

DEMO = "hubbub.demo:app"


def _option(setting: Setting) -> inspect.Parameter:
    """Return the command's parameter for a setting. None stands for not given."""
    kind, default = setting.kind, setting.default
    plain: object = Literal[kind] if isinstance(kind, tuple) else kind
    names = [setting.option]
    if kind is bool:
        names = [f"{setting.option}/--no-{setting.option.removeprefix('--')}"]
    shown = "none" if default is None else ("yes" if default else "no") if kind is bool else default
    option = typer.Option(
        *names,
        help=f"{setting.description} [dim]\\[{setting.variable}; default: {shown}][/]",
        rich_help_panel=setting.group,
        show_default=False,
        metavar=None if kind is bool else _metavar(kind),
    )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[plain], option],  # noqa: UP045
    )


def _metavar(kind: type | tuple[str, ...]) -> str:
    return "|".join(kind) if isinstance(kind, tuple) else {int: "N", float: "SECONDS"}.get(kind, "TEXT")


def _put_into_environment(given: dict[str, object]) -> None:
    """Hand the options on as settings: worker processes read them there too."""
    for setting in describe():
        value = given.get(setting.name)
        if value is not None:
            os.environ[setting.variable] = str(value)


def serve(
    target: Annotated[
        str, typer.Argument(help="What to serve, as module:object: a Hubbub or any ASGI application.")
    ],
    **settings: object,
) -> None:
    """Serve an application. Every option is also an environment variable."""
    _put_into_environment(settings)
    server.serve(target)


def demo(**settings: object) -> None:
    """Serve a chat to try, on http://localhost:8000."""
    _put_into_environment(settings)
    server.serve(DEMO)


def _with_options(command: object) -> None:
    """Give a command the options that the settings define."""
    signature = inspect.signature(command)  # type: ignore[arg-type]
    plain = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]
    options = [_option(setting) for setting in describe()]
    command.__signature__ = signature.replace(parameters=[*plain, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*plain, *options]}


for _command in (serve, demo):
    _with_options(_command)
