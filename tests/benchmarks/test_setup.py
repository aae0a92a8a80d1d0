"""The set-up for the benchmarks, where pip has nothing to do: it goes on without what is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "dirname", "cksum", "grep", "cat", "rm", "mkdir", "mv", "env")
APT_GET = 'case "$*" in *download*) echo package > nginx.deb ;; esac'
"""Downloads one package, and has nothing to install."""


class Clone:
    """A clone, and the only programs that its set-up finds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "programs"
        self.peers = root / "benchmarks/peers"
        for folder in (self.programs, self.peers, root / "scripts", root / ".venv/bin"):
            folder.mkdir(parents=True)
        for tool in TOOLS:
            self.programs.joinpath(tool).symlink_to(shutil.which(tool) or pytest.skip(f"needs {tool}"))
        for file in ("scripts/setup.sh", "pyproject.toml", "benchmarks/peers/package-lock.json"):
            shutil.copy(ROOT / file, root / file)
        python = root / ".venv/bin/python"
        python.symlink_to(sys.executable)
        self._write(root / ".venv/bin/pip", f"# {python}")
        root.joinpath(".venv/.bench-stamp").write_text(self._sum("pyproject.toml"))
        # Nothing may reach the system.
        self.program("id", "echo 0")
        self.program("install", "")

    def program(self, name: str, text: str) -> None:
        self._write(self.programs / name, text)

    def set_up(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "scripts/setup.sh", "bench"],
            cwd=self.root,
            env={"PATH": str(self.programs)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )

    def _sum(self, file: str) -> str:
        with self.root.joinpath(file).open() as opened:
            return subprocess.run(
                ["cksum"], stdin=opened, capture_output=True, text=True, check=True
            ).stdout  # as the script takes it

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path.resolve())


def with_node(clone: Clone, *, packages: str = "mkdir -p node_modules/ws") -> None:
    clone.program("node", "")
    clone.program("npm", f'case "$1" in ci) {packages} ;; esac')


def with_nginx(clone: Clone, text: str) -> None:
    """Have apt-get bring an nginx that does so."""
    clone.program("apt-get", APT_GET)
    program = "usr/sbin/nginx"
    clone.program(
        "dpkg-deb",
        f"mkdir -p {Path(program).parent} && cat > {program} <<'END'\n#!/bin/sh\n{text}\nEND\n"
        f"{shutil.which('chmod')} +x {program}",
    )


def test_without_node_the_benchmarks_go_without_ws(clone: Clone) -> None:
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert "nodejs npm is missing here" in done.stderr
    assert "go without ws" in done.stderr


def test_without_the_packages_of_node_the_benchmarks_go_without_ws(clone: Clone) -> None:
    with_node(clone, packages="exit 1")
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert "npm could not install them" in done.stderr
    assert "go without ws" in done.stderr


def test_an_nginx_that_lacks_a_library_is_told_of_and_not_kept(clone: Clone) -> None:
    with_node(clone)
    with_nginx(clone, "echo libpcre2-8.so.0: cannot open shared object file >&2; exit 127")
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert "go without ws" not in done.stderr
    assert "libpcre2-8.so.0: cannot open" in done.stderr
    assert "go without nchan" in done.stderr
    assert not list(clone.peers.glob("nginx*"))


def test_an_nginx_that_runs_is_kept(clone: Clone) -> None:
    with_node(clone)
    with_nginx(clone, "exit 0")
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert "go without" not in done.stderr
    assert [path.name for path in clone.peers.glob("nginx*")] == ["nginx"]
