"""What hubbub's own source does not do at all: ways to attack that there is no place for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import hubbub

SOURCE = Path(hubbub.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

RUNS_DATA = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "yaml",
    "ctypes",
    "xml",
    "telnetlib",
}
"""Modules that make code or objects of data, or expand it without a bound."""

EVALUATES = {"eval", "exec", "compile", "__import__", "getattr_static", "input"}

SHELLS = {
    ("os", "system"),
    ("os", "popen"),
    ("subprocess", "getoutput"),
    ("asyncio", "create_subprocess_shell"),
}

SECRET = re.compile(r"token|secret|password|passwd|digest|signature|credential", re.IGNORECASE)


def nodes(*, tests: bool = True) -> Iterator[tuple[Path, ast.AST]]:
    """Yield all of the source; without `tests` not what is for tests alone."""
    for file in FILES:
        if not tests and file.is_relative_to(SOURCE / "testing"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            yield file, node


def place(file: Path, node: ast.AST) -> str:
    return f"{file.relative_to(SOURCE)}:{node.lineno}"  # type: ignore[attr-defined]


def test_the_source_is_looked_through():
    assert {"app.py", "native.py", "codecs.py", "memory.py"} <= {file.name for file in FILES}


def test_nothing_makes_code_or_objects_of_data():
    """python-socketio's CVE-2025-61765: pickle between processes, so who can publish can run programs."""
    found = []
    for file, node in nodes():
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        found += [place(file, node) for name in names if name.partition(".")[0] in RUNS_DATA]
    assert found == []


def test_nothing_evaluates_text():
    found = [
        place(file, node)
        for file, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVALUATES
    ]
    assert found == []


def test_nothing_is_run_by_a_shell():
    found = []
    for file, node in nodes():
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and (*_names(function.value), function.attr) in SHELLS:
            found.append(place(file, node))
        found += [
            place(file, node)
            for keyword in node.keywords
            if keyword.arg == "shell"
            and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
        ]
    assert found == []


def _names(node: ast.expr) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr


def test_no_secret_is_compared_letter_by_letter():
    """websockets' CVE-2021-33880: how long `==` takes tells how much of a password was right.

    `authenticate` is handed the token, and the signature of a session's token is compared with
    `hmac.compare_digest`; so has any other secret to be. In the head of a request, a token is a word
    (RFC 9110 section 5.6.2).
    """
    found = []
    for file, node in nodes(tests=False):
        if not isinstance(node, ast.Compare) or file.name == "head.py":
            continue
        sides = [node.left, *node.comparators]
        for operator, right, left in zip(node.ops, sides[1:], sides, strict=False):
            if isinstance(operator, ast.Eq | ast.NotEq) and any(
                SECRET.search(name) for side in (left, right) for name in _names(side)
            ):
                found.append(place(file, node))
    assert found == []


def test_what_identifies_is_not_to_be_guessed():
    """Socket.IO's CVE-2017-16031: ids of plain random numbers. `random` may spread load and no more."""
    users = {
        file.relative_to(SOURCE).as_posix()
        for file, node in nodes(tests=False)
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names)
    }
    assert users <= {"cli/chaos.py", "client/backoff.py", "engine/drain.py", "soak/run.py"}


def test_asserts_do_not_judge_what_clients_send():
    """aiohttp's CVE-2025-69227: with `python -O` an assert that kept a loop from running on was gone.

    An assert states what must be so in hubbub itself. None names a client's data.
    """
    about_input = re.compile(r"\b(payload|request|headers|token|origin|host|body)\b")
    found = [
        place(file, node)
        for file, node in nodes(tests=False)
        if isinstance(node, ast.Assert) and any(about_input.fullmatch(name) for name in _names(node.test))
    ]
    assert found == []
