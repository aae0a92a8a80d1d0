"""The set-up for the benchmarks, where pip has nothing to do: it goes on without what is missing."""

import shutil
from pathlib import Path

import pytest

from clone import Clone

APT_GET = 'case "$*" in *download*) echo package > nginx.deb ;; esac'
"""Downloads one package, and has nothing to install."""


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    made = Clone(tmp_path.resolve(), "bench")
    made.program("redis-server", "")
    return made


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


def test_without_redis_the_benchmarks_go_without_the_works_that_need_it(clone: Clone) -> None:
    clone.programs.joinpath("redis-server").unlink()
    with_node(clone)
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert "go without the works that need Redis" in done.stderr
    assert "go without ws" not in done.stderr


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
