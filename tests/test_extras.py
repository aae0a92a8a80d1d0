"""The extras of the package, and the groups for development, agree on what they install."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from hubbub import brokers
from hubbub.client import lines

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


def test_every_line_s_extra_is_there_and_in_the_group_of_lines():
    of_lines = {extra for extra, _ in lines.OTHERS.values() if extra is not None}
    of_extras = {name for extra in of_lines for name in ranges(EXTRAS[extra])}
    assert of_extras == set(ranges(PROJECT["dependency-groups"]["lines"]))


def test_without_an_extra_its_lines_say_what_to_install():
    program = """
import sys
import hubbub
from hubbub.client.lines import OTHERS

hubbub.connect("ws://localhost")
assert not {"aiohttp", "grpc"} & sys.modules.keys()
sys.modules.update(aiohttp=None, grpc=None)
for scheme, (extra, _) in OTHERS.items():
    if extra is not None:
        try:
            hubbub.connect(f"{scheme}://localhost")
        except hubbub.ConfigurationError as problem:
            assert f"pip install 'hubbub[{extra}]'" in str(problem), problem
        else:
            raise AssertionError(scheme)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_all_is_all_the_others():
    (everything,) = EXTRAS["all"]
    assert everything == f"hubbub[{','.join(sorted(EXTRAS.keys() - {'all'}))}]"
