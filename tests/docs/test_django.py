"""The pages about Django show a project: it is `examples/django`, and what they add to it runs there."""

import shutil
import subprocess
import sys

import pytest

from docs.pages import ROOT, files
from docs.test_pages import IN_A_PROJECT

EXAMPLE = ROOT / "examples" / "django"

IMPORT = """
import importlib, sys, django
django.setup()
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(("page", "settings"), IN_A_PROJECT.items())
def test_the_files_are_those_of_the_example_or_run_in_it(page, settings, tmp_path, environment):
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"))
    names = []
    for file in files(page):
        present = EXAMPLE / file.name
        if present.exists():
            assert file.text == present.read_text(), file.name
        (project / file.name).write_text(file.text)
        names.append(file.name.removesuffix(".py").replace("/", "."))
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT, *names],
        cwd=project,
        env={**environment, "DJANGO_SETTINGS_MODULE": settings},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert finished.returncode == 0, finished.stderr
