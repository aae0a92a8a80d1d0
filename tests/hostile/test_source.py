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

NO_SECRETS = {
    # A word in the head of a request (RFC 9110 section 5.6.2), and a name of a header.
    ("transports/head.py", "token in [part.strip() for part in value.split(b',')]"),
    ("transports/head.py", "value == token"),
    ("observe/log.py", "name.lower() in _SECRET_HEADERS"),
    # A part of a NATS subject.
    ("brokers/nats/presence.py", "token(lease) in gone"),
    # A part of a JSON text that is shown in colours.
    ("cli/terminal.py", "token in tuple('{}[],:')"),
    ("cli/terminal.py", "token in ('true', 'false', 'null')"),
}
"""Comparisons of what is called like a secret, and is none."""

INPUT = re.compile(
    r"payload|request|headers?|token|origin|host|body|message|data|envelope|frame|packet|text|query|auth"
)
"""Names of what a client sends."""

OWN_STATE = {
    # That a message has begun; what is in it has been judged, or will be.
    ("protocol/frames.py", "message is not None"),
    # A client itself, that knows no other messages.
    ("soak/participant.py", "isinstance(event.message, Note)"),
    ("soak/participant.py", "isinstance(received.message, Note)"),
}
"""Asserts that name what a client sends, and do not judge it."""


def nodes(*, tests: bool = True) -> Iterator[tuple[Path, ast.AST]]:
    """Yield all of the source; without `tests` not what is for tests alone."""
    for file in FILES:
        if not tests and file.is_relative_to(SOURCE / "testing"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            yield file, node


def place(file: Path, node: ast.AST) -> str:
    return f"{file.relative_to(SOURCE)}:{node.lineno}"  # type: ignore[attr-defined]


def as_written(file: Path, node: ast.AST) -> tuple[str, str]:
    return file.relative_to(SOURCE).as_posix(), ast.unparse(node)


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
    `hmac.compare_digest`; so has any other secret to be. `in` compares with `==`, too.
    """
    found, innocent = [], set()
    for file, node in nodes(tests=False):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for operator, right, left in zip(node.ops, sides[1:], sides, strict=False):
            if isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) and any(
                SECRET.search(name) for side in (left, right) for name in _names(side)
            ):
                if as_written(file, node) in NO_SECRETS:
                    innocent.add(as_written(file, node))
                else:
                    found.append(place(file, node))
    assert found == []
    assert innocent == NO_SECRETS


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

    An assert tells the type checker what hubbub itself has seen to: that something is there, or of which
    class it is. None compares anything, and none names a client's data.
    """
    found, own = [], set()
    for file, node in nodes(tests=False):
        if not isinstance(node, ast.Assert):
            continue
        test = as_written(file, node.test)
        if test in OWN_STATE:
            own.add(test)
        elif not narrows(node.test) or any(INPUT.fullmatch(name) for name in _names(node.test)):
            found.append(place(file, node))
    assert found == []
    assert own == OWN_STATE


def narrows(test: ast.expr) -> bool:
    """Tell whether it says no more than that something is not None, or of a class, or not of one."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test = test.operand
        return isinstance(test, ast.Call) and narrows(test)
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return (
        isinstance(test, ast.Compare)
        and [type(operator) for operator in test.ops] == [ast.IsNot]
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value is None
    )
