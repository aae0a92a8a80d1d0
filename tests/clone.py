"""A clone of the repository in which `scripts/setup.sh` can be run without any effect on the system."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "dirname", "cksum", "grep", "cat", "rm", "mkdir", "mv", "env")


class Clone:
    """A clone, and the only programs that its set-up finds."""

    def __init__(self, root: Path, purpose: str) -> None:
        self.root = root
        self.purpose = purpose
        self.programs = root / "programs"
        self.peers = root / "benchmarks/peers"
        self.system = root / "system"
        """Stands for the root of the system."""
        for folder in (self.programs, self.peers, self.system, root / "scripts", root / ".venv/bin"):
            folder.mkdir(parents=True)
        for tool in TOOLS:
            self.link(tool)
        for file in ("scripts/setup.sh", "pyproject.toml", "benchmarks/peers/package-lock.json"):
            self.copy(file)
        python = root / ".venv/bin/python"
        python.symlink_to(sys.executable)
        self.write(root / ".venv/bin/pip", f"# {python}")
        root.joinpath(f".venv/.{purpose}-stamp").write_text(self._sum("pyproject.toml"))
        # Nothing may reach the system.
        self.program("id", "echo 0")
        self.program("install", "")

    def program(self, name: str, text: str) -> None:
        self.write(self.programs / name, text)

    def link(self, tool: str) -> None:
        """Let the set-up find one of the system's programs."""
        self.programs.joinpath(tool).symlink_to(shutil.which(tool) or pytest.skip(f"needs {tool}"))

    def copy(self, file: str) -> None:
        """Have a file of the repository in the clone."""
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, self.root / file)

    def start(self) -> "subprocess.Popen[str]":
        """Begin the set-up."""
        # A shell can't catch what whoever runs the tests has had ignored, as `nohup` has SIGHUP.
        env = str(shutil.which("env"))
        return subprocess.Popen(
            [env, "--default-signal", "sh", "scripts/setup.sh", self.purpose],
            cwd=self.root,
            env={"PATH": str(self.programs), "HUBBUB_SYSTEM_ROOT": str(self.system)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def set_up(self) -> "subprocess.CompletedProcess[str]":
        """Run the set-up to its end."""
        with self.start() as running:
            try:
                out, err = running.communicate(timeout=50)
            finally:
                running.kill()
        return subprocess.CompletedProcess(running.args, running.returncode, out, err)

    def _sum(self, file: str) -> str:
        with self.root.joinpath(file).open() as opened:
            return subprocess.run(
                ["cksum"], stdin=opened, capture_output=True, text=True, check=True
            ).stdout  # as the script takes it

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
