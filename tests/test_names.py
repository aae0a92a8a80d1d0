import subprocess
import sys

import pytest

import hubbub
import hubbub.testing


@pytest.mark.parametrize("package", [hubbub, hubbub.testing])
def test_all_public_names_are_there_when_they_are_asked_for(package):
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("package", [hubbub, hubbub.testing])
def test_other_names_are_not(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_they_are_listed():
    assert {"Hubbub", "connect", "__version__"} <= set(dir(hubbub))


def test_the_package_alone_imports_nothing_else():
    program = """
import sys
before = set(sys.modules)
import hubbub, hubbub.testing
new = {name for name in set(sys.modules) - before if name.startswith(("hubbub", "starlette", "msgspec"))}
print(*sorted(new))
from hubbub import *
print(Hubbub.__name__)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "hubbub hubbub.testing\nHubbub\n"
