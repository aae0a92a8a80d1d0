"""The pages of the documentation, taken apart: fenced blocks, the files they make up, headings and links.

A fenced block with a title is a whole file: ```python title="chat.py"```. A later block of the same title is
a later version of it. A Python block without a title goes on where the last titled one ended.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")],
    key=lambda path: path.as_posix(),
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[a-z]+)?(?P<attributes>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_ATTRIBUTE = re.compile(r'(\w+)="?([^"\s]+)"?')
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    attributes: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class File:
    """One version of a file that a page shows; `page` and `line` say where it begins."""

    page: str
    line: int
    name: str
    text: str


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> Iterator[Block]:
    """Yield a page's fenced blocks in order."""
    text = read(page)
    for found in _FENCE.finditer(text):
        yield Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"] or "",
            dict(_ATTRIBUTE.findall(found["attributes"])),
            re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
        )


def files(page: str) -> list[File]:
    """Return all versions of all files that a page shows, in order."""
    found: list[File] = []
    for block in blocks(page):
        title = block.attributes.get("title")
        if title is not None:
            found.append(File(page, block.line, title, block.text))
        elif block.language == "python":
            last = found.pop()
            assert last.name.endswith(".py"), f"{block.place} continues no Python file"
            found.append(File(page, last.line, last.name, f"{last.text}\n\n{block.text}"))
    return found


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Yield the shell commands of a page, each with its place."""
    for block in blocks(page):
        if block.language == "sh":
            for number, line in enumerate(block.text.replace("\\\n", " ").splitlines()):
                if line and not line.startswith("#"):
                    yield f"{page}:{block.line + number + 1}", line


def links(page: str) -> Iterator[str]:
    """Yield the targets of a page's links; what is in code is none."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", read(page)))
    for found in _LINK.finditer(text):
        yield found["target"]


def anchors(page: str) -> set[str]:
    """Return what a page's headings can be linked to by."""
    headings = re.findall(r"^#+ +(.*)$", _FENCE.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Shelf:
    """A directory that a page's files are put into, and imported from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._imported: set[str] = set()

    def put(self, file: File) -> None:
        path = self.directory / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)

    def put_all(self, page: str) -> None:
        """Put the last version of each file of a page."""
        for file in files(page):
            self.put(file)

    def module(self, name: str) -> ModuleType:
        """Import a file anew, as it is now."""
        self.forget()
        importlib.invalidate_caches()
        sys.path.insert(0, str(self.directory))
        before = set(sys.modules)
        wrote, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            return importlib.import_module(name)
        finally:
            sys.dont_write_bytecode = wrote
            sys.path.remove(str(self.directory))
            mine = {path.stem for path in self.directory.glob("*.py")}
            self._imported = (set(sys.modules) - before) & mine

    def forget(self) -> None:
        """Take out of `sys.modules` what was imported from here."""
        for name in self._imported:
            del sys.modules[name]
        self._imported = set()
