"""What the documentation shows is true: its Python runs, its commands exist, its links lead somewhere."""

import re
import shlex

import pytest
import typer.main

import hubbub
from docs import generate
from docs.pages import NAMES, ROOT, File, Shelf, anchors, commands, files, links, read
from hubbub.cli import app

IN_A_PROJECT = {
    "docs/how-to/django.md": "mysite.more_settings",
    "docs/how-to/channels.md": "mysite.settings_channels",
}
"""Pages whose files are run by test_django.py, with these settings of Django's."""
FILES = [
    file for page in NAMES for file in files(page) if file.name.endswith(".py") and page not in IN_A_PROJECT
]
COMMANDS = [
    (place, command)
    for page in NAMES
    for place, command in commands(page)
    if "hubbub " in command and not command.startswith("pip ")
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.page}:{file.line}")
def test_python_runs(file: File, shelf: Shelf) -> None:
    for other in files(file.page):
        if other.line <= file.line:
            shelf.put(other)
    shelf.module(file.name.removesuffix(".py"))


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=lambda value: value)
def test_a_command_has_these_options(place: str, command: str) -> None:
    words = shlex.split(command)
    arguments = words[words.index("hubbub") + 1 :]
    context = typer.main.get_command(app).make_context("hubbub", arguments, resilient_parsing=False)
    group = context.command
    assert isinstance(group, typer.core.TyperGroup)
    name, chosen, rest = group.resolve_command(context, arguments)
    assert chosen is not None
    chosen.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    for target in links(page):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), f"{page} links to {target}"
        if anchor:
            name = found.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(name), f"{page} links to {target}"


@pytest.mark.parametrize("page", generate.PAGES)
def test_tables_say_what_the_code_says(page: str) -> None:
    assert read(page) == generate.fill(read(page)), "write them anew: python tests/docs/generate.py"


def test_every_table_is_on_a_page() -> None:
    markers = [name for page in generate.PAGES for name in re.findall("<!-- table: (.*?) -->", read(page))]
    assert sorted(markers) == sorted(generate.TABLES)


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {(ROOT / target).resolve() for target in links("README.md") if ":" not in target}
    assert {ROOT / name for name in NAMES} <= linked | {ROOT / "README.md"}


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == hubbub.__version__
