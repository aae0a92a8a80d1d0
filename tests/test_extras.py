"""The extras of the package, and the groups for development, agree on what they install."""

import re
import tomllib
from pathlib import Path

from hubbub import brokers

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def ranges(requirements: list[object]) -> dict[str, str]:
    """Return the versions that requirements allow, by package."""
    words = [requirement for requirement in requirements if isinstance(requirement, str)]
    return dict(re.fullmatch(r"([\w-]+(?:\[.*\])?)(.*)", word).groups() for word in words)


def test_groups_install_the_versions_that_the_extras_allow():
    of_extras = {name: span for extra in EXTRAS.values() for name, span in ranges(extra).items()}
    for group in PROJECT["dependency-groups"].values():
        for name, span in ranges(group).items():
            assert of_extras.get(name, span) == span, name


def test_every_broker_s_extra_is_there_and_in_the_group_of_brokers():
    of_brokers = {extra for extra, _ in brokers._OPENERS.values()}
    of_extras = {name for extra in of_brokers for name in ranges(EXTRAS[extra])}
    assert of_extras == set(ranges(PROJECT["dependency-groups"]["brokers"]))


def test_all_is_all_the_others():
    (everything,) = EXTRAS["all"]
    assert everything == f"hubbub[{','.join(sorted(EXTRAS.keys() - {'all'}))}]"
