"""Every error that a client can get, as RFC 9457 problem details: one table from exception to answer."""

import logging
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import UNSET, Struct, UnsetType

from app.state.database import DatabaseUnavailable
from events.bus import BrokerUnavailable, OutcomeUnknown, Unroutable

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2


class FieldError(Struct, frozen=True):
    """`field` is a path into what was sent, such as `rows[3].prompt`, or the name of a parameter or header."""

    field: str
    message: str
    code: str = "invalid"


class Problem(Struct, frozen=True, kw_only=True):
    """RFC 9457. `type` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: tuple[FieldError, ...] | UnsetType = UNSET
    job_id: UUID | UnsetType = UNSET


class Invalid(Exception):
    """What was sent breaks rules: all of them are named."""

    def __init__(self, errors: list[FieldError]) -> None:
        names = ", ".join(dict.fromkeys(error.field for error in errors))
        super().__init__(f"not accepted: {names}")
        self.errors = tuple(errors)


class UnsupportedOption(Invalid):
    """An option that is planned and not built: to ignore it would give a false number."""


class UnknownModel(Invalid):
    """A model that the catalogue does not hold."""


class KeyReused(Invalid):
    """An Idempotency-Key that came with another body before."""


class Unreadable(Exception):
    """A body that cannot be read as what its content type says."""


class WrongContentType(Exception):
    """A body of a kind that this route does not take."""


class UnknownThing(Exception):
    """There is nothing of that id."""


class JobFinished(Exception):
    """The job is over, and its outcome is final."""


class DefinedOtherwise(Exception):
    """The id is taken by another definition."""


class SubmissionUncertain(Exception):
    """The broker may have the request. The same request with the same key is safe."""

    def __init__(self, detail: str, job_id: UUID) -> None:
        super().__init__(detail)
        self.job_id = job_id


BODY_PROBLEMS = (Unreadable, RequestEntityTooLarge, WrongContentType, Invalid)


class Kind(Struct, frozen=True):
    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        return f"urn:llm-bench:problem:{self.slug}"


INTERNAL = Kind(500, "internal-error", "Something went wrong here")

KINDS: dict[type[Exception], Kind] = {
    Unreadable: Kind(400, "unreadable-body", "The body cannot be read"),
    UnknownThing: Kind(404, "not-found", "There is nothing here"),
    NotFoundException: Kind(404, "not-found", "There is nothing here"),
    MethodNotAllowedException: Kind(405, "method-not-allowed", "This method is not for this address"),
    JobFinished: Kind(409, "job-finished", "The job is over"),
    DefinedOtherwise: Kind(409, "defined-otherwise", "The id is taken by another definition"),
    RequestEntityTooLarge: Kind(413, "body-too-large", "The body is too large"),
    WrongContentType: Kind(415, "wrong-content-type", "The content type is not one that is read here"),
    Invalid: Kind(422, "validation-error", "The request breaks rules"),
    UnsupportedOption: Kind(422, "unsupported_option", "An option is not built yet"),
    UnknownModel: Kind(422, "unknown-model", "The catalogue does not hold this model"),
    KeyReused: Kind(422, "idempotency-key-reused", "The Idempotency-Key came with another body before"),
    BrokerUnavailable: Kind(503, "broker-unavailable", "Nothing can be sent to the broker now"),
    Unroutable: Kind(503, "broker-unavailable", "Nothing can be sent to the broker now"),
    OutcomeUnknown: Kind(503, "outcome-unknown", "It was sent and never confirmed"),
    SubmissionUncertain: Kind(503, "outcome-unknown", "It was sent and never confirmed"),
    DatabaseUnavailable: Kind(503, "database-unavailable", "The database does not answer now"),
}


def kind_of(error: Exception) -> Kind:
    """The nearest entry of the table; another error of HTTP by its status; whatever else there is, internal."""
    for cls in type(error).__mro__:
        if cls in KINDS:
            return KINDS[cls]
    if isinstance(error, HTTPException) and error.status_code < INTERNAL.status:
        return Kind(error.status_code, "bad-request", "The request cannot be understood")
    return INTERNAL


def answer_problem(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    kind = kind_of(error)
    if kind is INTERNAL and not isinstance(error, HTTPException):
        logger.error("request failed", exc_info=error, extra={"method": request.method, "path": request.url.path})
    problem = Problem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=_detail(error, kind),
        instance=request.scope["path"],
        errors=getattr(error, "errors", UNSET),
        job_id=getattr(error, "job_id", UNSET),
    )
    return Response(
        msgspec.json.encode(problem), status_code=kind.status, media_type=MEDIA_TYPE, headers=_headers(error, kind)
    )


def _detail(error: Exception, kind: Kind) -> str:
    if kind is INTERNAL:
        return "An error that nobody foresaw; it was logged here, and the same request may work later"
    if isinstance(error, NotFoundException):
        return "No route has this address; /docs lists all of them"
    if isinstance(error, RequestEntityTooLarge):
        return "A body may have at most 1 MiB"
    return error.detail if isinstance(error, HTTPException) else str(error) or kind.title


def _headers(error: Exception, kind: Kind) -> dict[str, str]:
    headers = dict(getattr(error, "headers", None) or {})
    if kind.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return headers
