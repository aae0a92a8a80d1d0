"""Close codes and refusals as gRPC's statuses."""

from http import HTTPStatus
from typing import NamedTuple

from grpc import StatusCode

from ...protocol.codes import CloseCode
from ...protocol.envelope import Failure
from ...protocol.protobuf import metadata
from ...protocol.protobuf.metadata import Metadata
from ..admission import RETRY_AFTER, Refusal

_CLOSES = {
    CloseCode.NORMAL: StatusCode.OK,
    CloseCode.GOING_AWAY: StatusCode.UNAVAILABLE,
    CloseCode.PROTOCOL_ERROR: StatusCode.INVALID_ARGUMENT,
    CloseCode.UNSUPPORTED_DATA: StatusCode.INVALID_ARGUMENT,
    CloseCode.INVALID_DATA: StatusCode.INVALID_ARGUMENT,
    CloseCode.MESSAGE_TOO_BIG: StatusCode.RESOURCE_EXHAUSTED,
    CloseCode.INTERNAL_ERROR: StatusCode.INTERNAL,
    CloseCode.SERVICE_RESTART: StatusCode.UNAVAILABLE,
    CloseCode.TRY_AGAIN_LATER: StatusCode.UNAVAILABLE,
    CloseCode.NOT_LOGGED_IN: StatusCode.UNAUTHENTICATED,
    CloseCode.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    CloseCode.TOO_MANY_MESSAGES: StatusCode.RESOURCE_EXHAUSTED,
}

_REFUSALS = {
    HTTPStatus.UNAUTHORIZED: StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: StatusCode.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.INTERNAL_SERVER_ERROR: StatusCode.INTERNAL,
    HTTPStatus.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    HTTPStatus.TOO_MANY_REQUESTS: StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
}


class Status(NamedTuple):
    """How a call ends."""

    code: StatusCode
    details: str
    metadata: Metadata


def closed(code: int, reason: str) -> Status:
    """Return the status for a close code, of this table or by its range: 44xx stay away, 45xx come back."""
    status = _CLOSES.get(code)  # type: ignore[call-overload]  # a code is an int
    if status is None:
        status = {44: StatusCode.FAILED_PRECONDITION, 45: StatusCode.ABORTED}.get(
            code // 100, StatusCode.UNKNOWN
        )
    return Status(status, reason, metadata.closed(code, reason))


def refused(refusal: Refusal) -> Status:
    """Return the status for who is not let in."""
    return Status(
        _REFUSALS.get(HTTPStatus(refusal.status), StatusCode.FAILED_PRECONDITION),
        refusal.sentence,
        metadata.refused(refusal.status, RETRY_AFTER if refusal.retry else None),
    )


def failed(status: int, failure: Failure) -> Status:
    """Return the status for a message that could not be published; `status` is HTTP's."""
    return Status(
        _REFUSALS.get(HTTPStatus(status), StatusCode.UNKNOWN), failure.message, metadata.failed(failure)
    )
