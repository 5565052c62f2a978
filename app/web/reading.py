"""From bytes to a validated request, naming every field that breaks a rule at once.

msgspec stops at the first error. So a body is read whole and strictly at first, which is fast and nearly always right;
where that fails it is read again, field by field.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin
from uuid import UUID

import msgspec
from litestar import Request
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo

from app.web.problems import FieldError, Invalid, Unreadable, UnsupportedOption, WrongContentType

JSON = "application/json"
JSON_LINES = ("application/jsonl", "application/x-ndjson")

ENTRY_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$(?!\n)"  # in Python `$` lets a line break pass
LONGEST_ENTRY_ID = 200

MOST_ERRORS = 100
LONGEST_NAME = 64
DEEPEST = 32

Schema = TypeVar("Schema", bound=Struct)
Rule = Callable[[Mapping[str, Any]], Iterator[FieldError]]

_AT = re.compile(r" - at `\$(.*)`$")


def no_rule(_valid: Mapping[str, Any]) -> Iterator[FieldError]:
    yield from ()


class Form(Generic[Schema]):
    """What may be sent. `rule` sees the fields that are valid by their type, and tells what is wrong beyond that.

    `planned` are the options that are known and not built yet. `free` fields hold JSON of any shape, which is always
    looked through.
    """

    def __init__(
        self, schema: type[Schema], rule: Rule = no_rule, *, planned: Iterable[str] = (), free: bool = False
    ) -> None:
        self.schema = schema
        self._rule = rule
        self._planned = frozenset(planned)
        self._free = free
        self.fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
        self._decoder = msgspec.json.Decoder(schema)

    def read(self, body: bytes) -> Schema:
        """Raises Unreadable, Invalid or UnsupportedOption."""
        if not self._free and b"\\u0000" not in body:
            try:
                read = self._decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
            else:
                if not any(self._rule(msgspec.structs.asdict(read))):
                    return read
        return self.convert(parse_json(body))

    def convert(self, given: Any) -> Schema:
        """From what was parsed already. Raises Invalid or UnsupportedOption."""
        if not isinstance(given, dict):
            raise Invalid([FieldError("", "must be an object", "wrong_type")])
        errors, valid = self.check(given)
        if errors:
            planned = any(error.code == "unsupported_option" for error in errors)
            raise (UnsupportedOption if planned else Invalid)(errors)
        return self.schema(**valid)

    def check(self, given: Mapping[str, Any], *, strict: bool = True) -> tuple[list[FieldError], dict[str, Any]]:
        """All that is wrong, at most MOST_ERRORS, and the fields that are not."""
        errors = [self._unknown(name) for name in list(given)[:MOST_ERRORS] if name not in self.fields]
        valid: dict[str, Any] = {}
        for field in self.fields.values():
            errors += _convert(field, given, valid, strict=strict)
        errors += self._rule(valid)
        return errors[:MOST_ERRORS], valid

    def _unknown(self, name: str) -> FieldError:
        shown = printable(name)
        if name in self._planned:
            return FieldError(
                shown, "is not built yet, and to ignore it would give a false number", "unsupported_option"
            )
        close = difflib.get_close_matches(shown, self.fields, n=1)
        return FieldError(shown, f"is unknown; did you mean {close[0]!r}?" if close else "is unknown", "unknown_field")


def _convert(
    field: FieldInfo, given: Mapping[str, Any], valid: dict[str, Any], *, strict: bool
) -> Iterator[FieldError]:
    name = field.encode_name
    if name not in given:
        if field.required:
            yield FieldError(name, "is required", "missing")
        else:
            valid[field.name] = field.default if field.default is not NODEFAULT else field.default_factory()
        return
    try:
        value = msgspec.convert(given[name], field.type, strict=strict)
    except msgspec.ValidationError as error:
        yield _explain(field, given[name], str(error))
        return
    stray = list(_stray_values(name, given[name]))
    if not stray:
        valid[field.name] = value
    yield from stray


def _explain(field: FieldInfo, value: Any, message: str) -> FieldError:
    at = _AT.search(message)
    where = at[1].replace("[...]", "") if at else ""
    choices = _choices(field.type)
    if choices and isinstance(value, str):
        return FieldError(
            field.encode_name, f"is {printable(value)!r}; supported: {', '.join(choices)}", "not_supported"
        )
    return FieldError(field.encode_name + where, _AT.sub("", message).replace("`", ""))


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((choices for part in get_args(kind) if (choices := _choices(part))), ())


def parse_json(body: bytes) -> Any:
    """JSON, and JSON alone: no NaN. What is no Unicode in it is kept, so that its field can be named."""
    try:
        return json.loads(body.decode("utf-8", "surrogateescape"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise Unreadable("the body is nested too deeply") from error
    except ValueError as error:
        raise Unreadable(f"the body is not JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _stray_values(name: str, value: Any) -> Iterator[FieldError]:
    """What JSON allows and we cannot keep: Postgres refuses NUL and lone surrogates, and others refuse huge integers.

    Without recursion: the depth is the sender's choice.
    """
    waiting: list[tuple[str, Any, int]] = [(name, value, 1)]
    while waiting:
        path, value, depth = waiting.pop()
        problem = _stray(value, depth)
        if problem:
            yield FieldError(path, problem)
        elif isinstance(value, dict):
            waiting.append((path, "".join(value), depth))
            waiting += [(f"{path}.{printable(key)}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]


def _stray(value: Any, depth: int) -> str | None:
    if depth > DEEPEST:
        return f"is nested deeper than {DEEPEST} levels"
    if isinstance(value, str):
        return _stray_text(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "holds an integer beyond 64 bits"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "holds a number out of range"
    return None


def _stray_text(text: str) -> str | None:
    if "\x00" in text:
        return "holds a NUL character"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "is not valid Unicode: it holds a lone surrogate or a byte that is no UTF-8"
    return None


def printable(name: str) -> str:
    """A name that somebody else chose, short and safe to send back."""
    return name[:LONGEST_NAME].replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def read_query(request: Request[Any, Any, Any], form: Form[Schema]) -> Schema:
    """The query as a form; a parameter that is declared as a tuple may come repeatedly. Raises Invalid."""
    sent = request.query_params
    given: dict[str, Any] = {}
    errors = []
    for name in dict.fromkeys(sent.keys()):
        values = sent.getall(name)
        if _is_repeatable(form, name):
            given[name] = values
        else:
            given[name] = values[0]
            if len(values) > 1:
                errors.append(FieldError(printable(name), "was given more than once"))
    more, valid = form.check(given, strict=False)
    if errors or more:
        raise Invalid([*errors, *more])
    return form.schema(**valid)


def _is_repeatable(form: Form[Schema], name: str) -> bool:
    field = form.fields.get(name)
    kind: Any = field.type if field else None
    return get_origin(kind.__origin__ if get_origin(kind) is Annotated else kind) is tuple


async def read_body(request: Request[Any, Any, Any], *accepted: str) -> tuple[str, bytes]:
    """The content type, one of those accepted, and the body. Raises WrongContentType."""
    content_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if content_type not in accepted:
        sent = f"{printable(content_type)!r}" if content_type else "no content type"
        raise WrongContentType(f"send {' or '.join(accepted)}, not {sent}")
    return content_type, await request.body()


def read_uuid(name: str, text: str) -> UUID:
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError as error:
        raise Invalid([FieldError(name, "is not a UUID")]) from error


def wants(request: Request[Any, Any, Any], *media_types: str) -> bool:
    """Does the Accept header name one of these? JSON is what everybody else gets."""
    accepted = request.headers.get("accept", "").lower()
    return any(media_type in accepted for media_type in media_types)


def is_entry_id(text: str) -> bool:
    """Could it name a model or dataset at all?"""
    return len(text) <= LONGEST_ENTRY_ID and re.fullmatch(ENTRY_ID, text) is not None
