"""Regular expressions that read what clients send: none of them can be made to try again and again."""

import ast
from collections.abc import Iterator
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]  # there is no public way to take one apart

import msgspec
import pytest

import hubbub
from hubbub.engine.pattern import Pattern
from hubbub.observe.log import correlation_of
from hubbub.protocol.codecs import invalid

SOURCE = Path(hubbub.__file__).parent
LONG = 1_000_000


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every regular expression that is written down in the source, with its place."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                yield f"{file.relative_to(SOURCE)}:{node.lineno}", node.args[0].value


WRITTEN = dict(expressions())


def runs_away(pattern: "_parser.SubPattern", inside: bool = False) -> bool:
    """Tell whether a repeat without bound is inside of another one."""
    for operation, arguments in pattern:
        repeats = operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
        unbounded = repeats and arguments[1] is _constants.MAXREPEAT
        if inside and unbounded:
            return True
        if any(runs_away(part, inside or unbounded) for part in _parts(arguments)):
            return True
    return False


def _parts(arguments: object) -> Iterator["_parser.SubPattern"]:
    if isinstance(arguments, _parser.SubPattern):
        yield arguments
    elif isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from _parts(argument)


@pytest.mark.parametrize("expression", ["(a+)+", "(?:a*b?)*c", "(x(y*)z)+"])
def test_an_expression_that_could_run_away_is_recognised(expression):
    assert runs_away(_parser.parse(expression))


def test_expressions_are_found():
    assert len(WRITTEN) >= 10


@pytest.mark.parametrize("expression", WRITTEN.values(), ids=WRITTEN)
def test_no_expression_can_split_a_text_in_ever_more_ways(expression):
    """ws's CVE-2021-32640: a header of spaces that keeps an expression busy."""
    assert not runs_away(_parser.parse(expression))


# With what is worst for each that meets a client's text. Were one of them quadratic, the test would not end.


@pytest.mark.parametrize("unit", ["a", "/", " ", "\n", "{"])
def test_a_long_name_is_matched_at_once(unit):
    pattern = Pattern("chat/{room}/{part}/end")
    assert pattern.match("chat/" + unit * LONG) is None
    assert pattern.match("chat/" + "a/" * LONG + "en") is None
    assert pattern.match(f"chat/{'a' * LONG}/{'b' * LONG}/end") is not None


@pytest.mark.parametrize("unit", ["0", "00-", "f", "-", " ", "\xff"])
def test_a_long_correlation_id_is_passed_over_at_once(unit):
    headers = {"x-request-id": unit * LONG, "traceparent": unit * LONG}
    assert correlation_of(headers, "ours") == "ours"


@pytest.mark.parametrize("unit", [" - at `", " - at `key` in `", "`", "\n", " - at `$.x` "])
def test_where_an_error_is_found_at_once_and_is_not_what_the_client_says(unit):
    """What a decoder says may quote the client, and the client may quote a decoder."""
    quoted = unit * (LONG // len(unit))
    error = invalid("say", msgspec.ValidationError(f"Invalid enum value {quoted!r} - at `$.kind`"))
    assert error.problems[0][0] == "$.kind"
    assert invalid("say", msgspec.ValidationError(quoted)).message.startswith("Not a valid 'say': ")
