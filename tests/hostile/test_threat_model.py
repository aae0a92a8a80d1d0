"""The threat model is true: the tests that it names exist, and it has each advisory that a test names."""

import ast
import re
from pathlib import Path

import pytest

from hubbub.settings import describe

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text()

NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)::((?:Test\w+::)?test_\w+)`", PAGE)))
ADVISORY = re.compile(r"CVE-\d{4}-\d{4,}|PYSEC-\d{4}-\d+|GHSA(?:-\w{4}){3}")


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    nodes = ast.parse((TESTS / file).read_text()).body
    if "::" in name:
        group, name = name.split("::")
        (nodes,) = [node.body for node in nodes if isinstance(node, ast.ClassDef) and node.name == group]
    assert name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_nothing_is_named_that_is_not_looked_for() -> None:
    assert PAGE.count("::test_") == len(re.findall(r"`[a-z_/]+\.py::(?:Test\w+::)?test_\w+`", PAGE))


def test_every_attack_has_a_test() -> None:
    rows = re.findall(r"^\| [A-Z]\d+ \|.*$", PAGE, re.MULTILINE)
    assert len(rows) > 40
    assert [row[:60] for row in rows if "::test_" not in row] == []


def test_no_attack_has_the_name_of_another_and_they_are_in_order() -> None:
    names = [
        (letter, int(number)) for letter, number in re.findall(r"^\| ([A-Z])(\d+) \|", PAGE, re.MULTILINE)
    ]
    assert len(names) == len(set(names))
    for letter in {letter for letter, _ in names}:
        numbers = [number for other, number in names if other == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_every_advisory_names_an_attack_or_says_why_not() -> None:
    attacks = set(re.findall(r"^\| ([A-Z]\d+) \|", PAGE, re.MULTILINE))
    for line in PAGE.splitlines():
        if ADVISORY.match(line.removeprefix("| ")):
            here = line.rsplit("|", 2)[1]
            named = set(re.findall(r"\b[A-Z]\d+\b", here))
            assert named <= attacks, line
            assert named or here.strip().startswith("no: "), line


def test_every_advisory_that_a_test_names_is_on_the_page() -> None:
    on_page = set(ADVISORY.findall(PAGE))
    in_tests = {
        advisory
        for file in TESTS.glob("hostile/test_*.py")
        for advisory in ADVISORY.findall(file.read_text())
    }
    assert in_tests <= on_page


def test_no_advisory_is_on_the_page_twice() -> None:
    first = re.findall(r"^\| ((?:CVE|PYSEC|GHSA)-\S+) \|", PAGE, re.MULTILINE)
    assert len(first) == len(set(first))
    assert len(first) > 60


def test_every_setting_that_is_named_exists() -> None:
    settings = {setting.name for setting in describe()}
    named = set(re.findall(r"`((?:max|allowed|forwarded)_\w+|\w+_timeout)`", PAGE))
    assert named <= settings
