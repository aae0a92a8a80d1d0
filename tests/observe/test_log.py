import asyncio
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from hubbub.observe.log import (
    CorrelationFilter,
    JSONFormatter,
    SecretFilter,
    TextFormatter,
    configure,
    correlation_id,
    correlation_of,
    fields,
    hide_secrets,
    logger,
)

patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
anything = st.text(st.characters(), max_size=40)

ROOT, UVICORN, WEBSOCKETS = (logging.getLogger(name) for name in (None, "uvicorn", "websockets"))


def record(message="connect", *arguments, level=logging.INFO, exc_info=None, **extra):
    made = logging.LogRecord("hubbub", level, "here.py", 1, message, arguments, exc_info)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    vars(made).update(extra)
    return made


def text(*arguments, **details):
    """Return what comes after the time."""
    line = TextFormatter().format(record(*arguments, **details))
    moment, rest = line.split(" ", 1)
    hour, minute, second = moment.split(":")
    assert (len(hour), len(minute), second) == (2, 2, "20.250")
    return rest


def as_json(*arguments, **details):
    line = JSONFormatter().format(record(*arguments, **details))
    assert len(line.splitlines()) == 1
    return json.loads(line)


def failure():
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        return sys.exc_info()


# Fields


def test_fields_that_are_none_are_left_out():
    assert fields(path="/", user=None, code=0, reason="") == {
        "fields": {"path": "/", "code": 0, "reason": ""}
    }


# Text


def test_a_line_of_text_is_the_time_the_level_the_event_and_its_fields():
    assert text(**fields(path="/chat", code=1000, duration=1.23456)) == (
        "INFO    connect path=/chat code=1000 duration=1.235"
    )
    assert text("%d of %s", 1, "two", level=logging.WARNING) == "WARNING 1 of two"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', r'"say \"hi\""'),
        ("a=b", '"a=b"'),
        ("back\\slash", r'"back\\slash"'),
        ("a\nb\r\x1b[31m\x00", r'"a\nb\r\u001b[31m\u0000"'),
        ("a\x85b\u2028c\u2029d", r'"a\u0085b\u2028c\u2029d"'),
        ("right\u202eleft", r'"right\u202eleft"'),
        ("\ud800", r'"\ud800"'),
        ("Zoë", "Zoë"),
        (True, "True"),
        (["a b"], "\"['a b']\""),
    ],
)
def test_a_field_that_could_be_mistaken_is_quoted_and_escaped(value, shown):
    assert text(**fields(value=value)) == f"INFO    connect value={shown}"


@pytest.mark.parametrize(
    ("message", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[31mred", r"\x1b[31mred"), ("a\u2028b", r"a\u2028b"), ("Zoë said hi", None)],
)
def test_an_event_stays_on_its_line(message, shown):
    assert text("%s", message) == f"INFO    {shown or message}"


@patiently
@given(anything, anything, anything)
def test_whatever_is_logged_as_text_is_one_printable_line(message, value, correlation):
    line = text("%s", message, **fields(value=value), correlation_id=correlation)
    assert line.isprintable()


def test_a_traceback_follows_the_line():
    first, *rest = text(exc_info=failure(), **fields(path="/")).splitlines()
    assert first == "INFO    connect path=/"
    assert rest[0] == "    Traceback (most recent call last):"
    # Whatever an exception says, no line of it looks like one of the log's own, or of the traceback's.
    assert rest[-1] == r"    ValueError: of two\nlines"


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\rb", "a\u2028b\u2029c\x85d", "\ud800", "\u202e", "\x00"])
def test_whatever_a_client_sent_a_traceback_shows_it_escaped(hostile):
    try:
        raise ValueError(f"no such thing: {hostile}")
    except ValueError as problem:
        problem.add_note(hostile)
        shown = text(exc_info=(ValueError, problem, problem.__traceback__))
    for line in shown.split("\n"):
        assert line.isprintable()
    assert hostile.encode("unicode_escape").decode() in shown


FORGED = 'lost\n  File "forged.py", line 1, in forged\nForged: \x1b[31mnot so\r\n\u2028 | x'
ESCAPED = r'lost\n  File "forged.py", line 1, in forged\nForged: \x1b[31mnot so\r\n\u2028 | x'


def chained() -> BaseException:
    """An exception with a cause and a context, each of which says what a client sent, in notes too."""
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise LookupError(FORGED)  # noqa: B904  # it is to have a context
        except LookupError as problem:
            problem.add_note(FORGED)
            raise ValueError(FORGED) from problem
    except ValueError as problem:
        problem.add_note("a note\n" + FORGED)
        return problem


def grouped() -> BaseException:
    """A group in a group, and how a text of a client's was no Python."""
    try:
        compile("a b", FORGED, "exec")
    except SyntaxError as problem:
        broken = problem
    try:
        raise ExceptionGroup(FORGED, [chained(), ExceptionGroup("inner", [OSError(5, FORGED), broken])])
    except ExceptionGroup as problem:
        problem.add_note(FORGED)
        return problem


def odd() -> BaseException:
    """An exception of which nothing can be said, with notes that are none."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    made = Unspeakable()
    made.__notes__ = ["plain", Unspeakable(), 5]
    return made


def as_info(problem: BaseException):
    return type(problem), problem, problem.__traceback__


@pytest.mark.parametrize("problem", [chained(), grouped()], ids=["chained", "grouped"])
def test_what_an_exception_quotes_begins_no_line_of_a_traceback(problem):
    _, *lines = text(exc_info=as_info(problem)).split("\n")
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.strip(" |+-").startswith(('File "forged', "Forged", "not so"))]
    assert [line for line in lines if line.endswith(f"LookupError: {ESCAPED}")]
    assert [line for line in lines if line.endswith(f"ValueError: {ESCAPED}")]
    assert [line for line in lines if line.endswith(rf"a note\n{ESCAPED}")]


def test_a_traceback_is_as_python_shows_it_where_nothing_has_to_be_escaped():
    def fail() -> None:
        try:
            raise KeyError("one")
        except KeyError as problem:
            problem.add_note("noted")
            raise ExceptionGroup("all", [ValueError("two"), SyntaxError("three")]) from problem

    with pytest.raises(ExceptionGroup) as raised:
        fail()
    _, *shown = text(exc_info=as_info(raised.value)).split("\n")
    expected = "".join(traceback.format_exception(raised.value)).splitlines()
    assert shown == [f"    {line}" for line in expected]


def test_an_exception_that_can_say_nothing_is_logged_all_the_same():
    lines = text(exc_info=as_info(odd())).split("\n")
    assert lines[-4].endswith("Unspeakable: <exception str() failed>")
    assert lines[-3:] == ["    plain", "    <note str() failed>", "    5"]
    problem = ValueError("said")
    problem.__notes__ = {"no": "list\nof notes"}
    assert text(exc_info=as_info(problem)).split("\n")[-1] == r"    {'no': 'list\nof notes'}"
    assert text(exc_info=(None, None, None)).split("\n")[1:] == ["    NoneType: None"]


@pytest.mark.parametrize("problem", [chained(), grouped(), odd()], ids=["chained", "grouped", "odd"])
def test_as_json_any_traceback_is_within_the_line(problem):
    # That it is one line, all of these tests look at.
    assert type(problem).__name__ in as_json(exc_info=as_info(problem))["traceback"]


def test_the_correlation_id_is_shown_unless_it_is_the_connection():
    assert text(correlation_id="abc", **fields(connection="c1")) == (
        "INFO    connect connection=c1 correlation_id=abc"
    )
    assert text(correlation_id="c1", **fields(connection="c1")) == "INFO    connect connection=c1"
    assert text(correlation_id="c1") == "INFO    connect correlation_id=c1"
    assert text(correlation_id=None) == "INFO    connect"


# JSON


def test_a_line_of_json_is_an_object_for_machines():
    assert as_json("%s of two", "one", correlation_id="abc", **fields(path="/", code=1000)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "hubbub",
        "event": "one of two",
        "path": "/",
        "code": 1000,
        "correlation_id": "abc",
    }


def test_a_field_given_by_name_is_not_replaced_by_the_correlation_id_of_the_moment():
    assert as_json(correlation_id="now", **fields(correlation_id="given"))["correlation_id"] == "given"


def test_a_traceback_is_a_field_of_its_object():
    traceback = as_json(exc_info=failure())["traceback"]
    assert traceback.startswith("Traceback (most recent call last):")
    assert traceback.endswith("ValueError: of two\nlines")


def test_a_value_that_json_does_not_know_is_shown_as_text():
    assert as_json(**fields(value=logging.INFO, kind=ValueError("x")))["kind"] == "x"


@patiently
@given(anything, anything | st.floats(allow_nan=False, allow_infinity=False) | st.lists(anything))
def test_whatever_is_logged_as_json_is_one_line_that_can_be_read_back(message, value):
    event = as_json("%s", message, **fields(value=value))
    assert event["event"] == message
    assert event["value"] == value


# The correlation id


def test_the_id_of_the_running_connection_is_put_on_records():
    token = correlation_id.set("abc")
    try:
        made = record()
        assert CorrelationFilter().filter(made)
    finally:
        correlation_id.reset(token)
    assert made.correlation_id == "abc"


def test_outside_of_a_connection_there_is_no_id():
    made = record()
    assert CorrelationFilter().filter(made)
    assert made.correlation_id is None


def test_a_record_that_has_an_id_keeps_it():
    made = record(correlation_id="own")
    assert CorrelationFilter().filter(made)
    assert made.correlation_id == "own"


async def test_ids_of_connections_at_work_at_the_same_time_are_kept_apart():
    both_in = asyncio.Barrier(2)

    async def work(name):
        correlation_id.set(name)
        await both_in.wait()
        made = record()
        CorrelationFilter().filter(made)
        return made.correlation_id

    assert await asyncio.gather(work("one"), work("other")) == ["one", "other"]


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, "own"),
        ({"x-request-id": "abc"}, "abc"),
        ({"x-request-id": "x" * 128}, "x" * 128),
        ({"x-request-id": '!"#=\\~'}, '!"#=\\~'),
        ({"traceparent": TRACEPARENT}, TRACE),
        ({"x-request-id": "abc", "traceparent": TRACEPARENT}, "abc"),
        ({"x-request-id": "not this", "traceparent": TRACEPARENT}, TRACE),
    ],
)
def test_the_id_is_the_clients_request_id_else_its_trace_id_else_ours(headers, found):
    assert correlation_of(headers, "own") == found


@pytest.mark.parametrize(
    "sent", ["", " ", "a b", "a\nb", "abc\n", "a\x00b", "a\x1b[31m", "a\x7fb", "Zoë", "\ud800", "x" * 129]
)
def test_a_hostile_request_id_is_passed_over(sent):
    assert correlation_of({"x-request-id": sent}, "own") == "own"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        TRACE,
        TRACEPARENT.upper(),
        TRACEPARENT + "\n",
        TRACEPARENT + "-more",
        " " + TRACEPARENT,
        TRACEPARENT.replace("-", ""),
        TRACEPARENT.replace("4b", "4g"),
        TRACEPARENT[1:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
    ],
)
def test_a_traceparent_that_is_none_is_passed_over(sent):
    assert correlation_of({"traceparent": sent}, "own") == "own"


@patiently
@given(anything, anything)
def test_whatever_the_headers_the_id_is_fit_for_a_log(request_id, traceparent):
    found = correlation_of({"x-request-id": request_id, "traceparent": traceparent}, "own")
    assert 1 <= len(found) <= 128
    assert found.isprintable()
    assert found.isascii()


# Setting it up


@pytest.fixture
def logged(capsys) -> Iterator[Callable[[], list[str]]]:
    """Return the lines that were written to standard error; put logging back as it was."""
    handlers = ROOT.handlers[:]
    levels = [(place, place.level) for place in (ROOT, UVICORN, WEBSOCKETS)]
    yield lambda: capsys.readouterr().err.splitlines()
    ROOT.handlers[:] = handlers
    for place, level in levels:
        place.setLevel(level)


def test_logging_is_set_up_as_text(logged):
    configure("info", "text")
    logger.info("connect", extra=fields(path="/"))
    logger.debug("not this")
    [line] = logged()
    assert line.endswith(" INFO    connect path=/")


def test_logging_is_set_up_as_json_with_the_correlation_id_of_what_the_application_logs(logged):
    configure("debug", "json")
    token = correlation_id.set("abc")
    try:
        logging.getLogger("application").debug("at work")
    finally:
        correlation_id.reset(token)
    [line] = logged()
    event = json.loads(line)
    assert (event["logger"], event["event"], event["correlation_id"]) == ("application", "at work", "abc")


def test_to_set_logging_up_again_does_not_double_the_lines(logged):
    configure("info", "json")
    configure("warning", "text")
    logger.info("not this")
    logger.warning("once")
    assert len(logged()) == 1


def test_of_the_libraries_below_only_warnings_are_logged(logged):
    configure("debug", "text")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("websockets.server").info("connection open")
    assert logged() == []
    logging.getLogger("uvicorn.error").warning("but this")
    [line] = logged()
    assert line.endswith("but this")


# Secrets in what servers log


@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        ('"%s %s" %d', ("GET", "/a?x=1&token=s3cret&y=2", 404), '"GET /a?x=1&token=***&y=2" 404'),
        ("< GET %s HTTP/1.1", ("/?token=s3cret",), "< GET /?token=*** HTTP/1.1"),
        ("< %s: %s", ("Authorization", "Bearer s3cret"), "< Authorization: ***"),
        ("< %s: %s", ("COOKIE", "session=s3cret"), "< COOKIE: ***"),
        ("< %s: %s", ("Host", "example.com"), "< Host: example.com"),
        ("< %s", (Frame(Opcode.TEXT, b"s3cret"),), "< TEXT"),
        ("connection open", (), "connection open"),
        ("%(a)s", ({"a": 1},), "1"),
    ],
)
def test_a_clients_secrets_are_taken_out_of_what_servers_log(message, arguments, shown):
    made = record(message, *arguments, level=logging.DEBUG)
    assert SecretFilter().filter(made)
    assert made.getMessage() == shown


def test_secrets_are_hidden_once_however_often_it_is_asked_for():
    for _ in range(3):
        hide_secrets()
    for name in ("uvicorn.access", "uvicorn.error"):
        found = [one for one in logging.getLogger(name).filters if isinstance(one, SecretFilter)]
        assert len(found) == 1
