"""Log lines through the standard :mod:`logging`: one event each, with fields, always on one line.

As text, a traceback follows on lines of its own; what an exception says is within one of them.

An event is logged as ``logger.info("connect", extra=fields(connection=..., path=...))``. hubbub logs
to ``hubbub``; what the application logs gets the correlation id of the connection that it works for.
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from traceback import TracebackException
from types import TracebackType
from typing import Any

logger = logging.getLogger("hubbub")

correlation_id: ContextVar[str | None] = ContextVar("hubbub_correlation_id", default=None)
"""Correlation id of the connection whose handler or hook is running; None outside of one."""

_ACCEPTABLE_ID = re.compile(r"[!-~]{1,128}")
# Version ff and ids of zeros alone are what the specification calls invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_PLAIN = re.compile(r"[^ \"\\=]+")


# A client's token in a target, its name perhaps percent-encoded, and the headers that carry secrets.
def _escaped(name: str) -> str:
    return "".join(f"(?:{re.escape(letter)}|%{ord(letter):02x})" for letter in name)


_SECRETS = "|".join(_escaped(name) for name in ("token", "last_event_id", "sid"))
_TOKEN = re.compile(rf"((?<!\w)(?:{_SECRETS})=)[^&\s#'\"]*", re.IGNORECASE)
_SECRET_HEADERS = {
    "authorization", "cookie", "hubbub-line", "last-event-id", "proxy-authorization", "set-cookie",
}  # fmt: skip
_SERVERS = ("uvicorn.access", "uvicorn.asgi", "uvicorn.error", "websockets.server", "hubbub.native")
"""Loggers to which a server tells what comes over the line: targets, headers, and frames when debugging."""


def fields(**values: object) -> dict[str, object]:
    """Return fields for the ``extra`` of a logging call; those that are None are left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def correlation_of(headers: Mapping[str, str], fallback: str) -> str:
    """Return the id that ties log lines together: the client's own if it sent one.

    Looked at are ``X-Request-ID``, then the trace id of ``traceparent`` (W3C Trace Context).
    """
    sent = headers.get("x-request-id", "")
    if _ACCEPTABLE_ID.fullmatch(sent):
        return sent
    traced = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return traced[1] if traced else fallback


class CorrelationFilter(logging.Filter):
    """Gives every record a ``correlation_id``; put it on the handlers of a logging set-up of your own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id, let the record pass."""
        if not hasattr(record, "correlation_id"):
            record.correlation_id = correlation_id.get()
        return True


class SecretFilter(logging.Filter):
    """Takes a client's secrets out of a server's records: tokens, credentials, what frames hold."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace them, let the record pass."""
        if record.args and not isinstance(record.args, tuple):
            # What logging makes of a mapping as the only argument.
            record.msg, record.args = _without_secrets(record.getMessage()), ()
        elif isinstance(record.args, tuple):
            name = record.args[0] if record.args else None
            if isinstance(name, str) and name.lower() in _SECRET_HEADERS:
                record.args = (name, *["***"] * (len(record.args) - 1))
            else:
                record.args = tuple(_without_secrets(value) for value in record.args)
        return True


_secret_filter = SecretFilter()


def hide_secrets() -> None:
    """Keep clients' secrets out of the servers' logs, at whatever level and by whomever they are set up."""
    for name in _SERVERS:
        # There once, however often this is called.
        logging.getLogger(name).addFilter(_secret_filter)


def _without_secrets(value: object) -> object:
    if isinstance(value, str | bytes | dict | list | tuple):
        return _TOKEN.sub(r"\1***", str(value))
    # The `websockets` library logs frames with what is in them.
    opcode = getattr(value, "opcode", None)
    return value if opcode is None else getattr(opcode, "name", opcode)


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    found = dict(getattr(record, "fields", {}))
    correlation = getattr(record, "correlation_id", None)
    if correlation is not None:
        found.setdefault("correlation_id", correlation)
    return found


_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)  # fmt: skip


class TextFormatter(logging.Formatter):
    """For people: ``12:30:01.250 INFO    connect path=/ user=ada``; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = _local_time(int(record.created))
        line = f"{moment}.{int(record.msecs):03d} {record.levelname:<7} {_one_line(record.getMessage())}"
        found = _fields_of(record)
        if found.get("correlation_id") == found.get("connection"):
            found.pop("correlation_id", None)
        for name, value in found.items():
            line += f" {name}={_shown(value)}"
        if record.exc_info:
            lines = self.formatException(record.exc_info).split("\n")
            line += "".join(f"\n    {_one_line(part)}" for part in lines)
        return line

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802  # logging's name
        """Return the traceback, in which each message and each note is one line.

        Any of them may quote a client, whose line breaks must not make lines that pass for the traceback's.
        """
        _, problem, frames = ei
        told = TracebackException(type(problem), problem, frames, compact=True)  # type: ignore[arg-type]
        parts: list[TracebackException | None] = [told]
        while parts:
            if (part := parts.pop()) is not None:
                _escape(part)
                parts += (part.__cause__, part.__context__, *(part.exceptions or ()))
        return "".join(told.format()).removesuffix("\n")


def _escape(part: TracebackException) -> None:
    """Have one exception of a traceback say each message in one line."""
    if isinstance(part.__notes__, Sequence):  # it is whatever was assigned
        part.__notes__ = [_note(note) for note in part.__notes__]
    part.__class__ = _InOneLine  # causes and contexts are made as the plain class, whatever is asked for


class _InOneLine(TracebackException):
    def format_exception_only(self, *arguments: Any, **options: Any) -> Iterator[str]:  # type: ignore[override]
        for line in super().format_exception_only(*arguments, **options):
            yield _one_line(line.removesuffix("\n")) + "\n"


def _note(note: object) -> str:
    try:
        return _one_line(str(note))
    except Exception:
        return "<note str() failed>"


class JSONFormatter(logging.Formatter):
    """For machines: one JSON object for each event, the traceback as a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


# A busy server logs many events in a second, and the text of the time is most of the work for each.
@lru_cache(maxsize=2)
def _local_time(seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text)


def configure(level: str, form: str) -> None:
    """Log everything of `level` and above to standard error, as ``"text"`` or ``"json"``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if form == "json" else TextFormatter())
    handler.addFilter(CorrelationFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # What these libraries tell of ordinary events, hubbub tells in its own lines.
    for name in ("uvicorn", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
