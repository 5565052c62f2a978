"""The registered datasets: rows with a prompt and an optional reference."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Raw, Struct

from app.benchmark import LONGEST_PROMPT, prompt_problem
from app.parts import AnyRequest, Parts
from app.state import queries
from app.state.database import DatabaseUnavailable
from app.web.documentation import Header, documented
from app.web.problems import BODY_PROBLEMS, DefinedOtherwise, FieldError, Invalid, UnknownThing, Unreadable
from app.web.reading import (
    ENTRY_ID,
    JSON,
    JSON_LINES,
    MOST_ERRORS,
    Form,
    is_entry_id,
    parse_json,
    printable,
    read_body,
    read_query,
)
from events.benchmark import DatasetDefinition, DatasetRow
from events.bus import BrokerUnavailable, OutcomeUnknown
from events.messages import DatasetRegistered

DATASETS = "/api/v1/datasets"
STORED_WITHIN_S = 2.0
MOST_ROWS = 10_000

DatasetId = Annotated[str, Meta(pattern=ENTRY_ID, max_length=200, examples=["org/questions"])]
Description = Annotated[str, Meta(max_length=1000)]


class RowRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: Annotated[str, Meta(min_length=1, max_length=LONGEST_PROMPT)]
    reference: Annotated[str, Meta(max_length=LONGEST_PROMPT)] | None = None


class DatasetRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dataset_id: DatasetId
    description: Description = ""
    rows: Annotated[list[RowRequest], Meta(min_length=1, max_length=MOST_ROWS)]


class RawDataset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dataset while its rows are not checked yet: each has errors of its own."""

    dataset_id: DatasetId
    description: Description = ""
    rows: Annotated[list[Any], Meta(min_length=1, max_length=MOST_ROWS)]


class LinesQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dataset_id: Annotated[DatasetId, Meta(description="With JSON Lines, whose lines are the rows.")] | None = None
    description: Description | None = None


class DatasetQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    offset: Annotated[int, Meta(ge=0, le=MOST_ROWS, description="Rows to leave out first.")] = 0
    limit: Annotated[int, Meta(ge=1, le=MOST_ROWS, description="Rows at most.")] = MOST_ROWS


class DatasetSummary(Struct, frozen=True, kw_only=True):
    """`registered_at` is null while it is not stored yet."""

    dataset_id: str
    description: str
    row_count: int
    registered_at: datetime | None


class Dataset(DatasetSummary, frozen=True, kw_only=True):
    rows: list[DatasetRow]


class Datasets(Struct, frozen=True, kw_only=True):
    items: list[DatasetSummary]


def row_rule(valid: Mapping[str, Any]) -> Iterator[FieldError]:
    if "prompt" in valid and (problem := prompt_problem(valid["prompt"])):
        yield FieldError("prompt", problem)


FORM = Form(RawDataset)
ROW = Form(RowRequest, row_rule)
LINES = Form(LinesQuery)
PAGE = Form(DatasetQuery)


@get(
    "/datasets",
    operation_id="listDatasets",
    summary="The registered datasets, without their rows",
    tags=["catalogue"],
    opt=documented(answers={200: {JSON: Datasets}}, raises=(DatabaseUnavailable,)),
)
async def list_datasets(parts: NamedDependency[Parts]) -> Response[bytes]:
    rows = await queries.select_datasets(parts.database)
    items = [DatasetSummary(**row) for row in rows]
    return Response(msgspec.json.encode(Datasets(items=items)), media_type=JSON)


@get(
    "/datasets/{dataset_id:path}",
    operation_id="getDataset",
    summary="One dataset with its rows; its id may contain `/`",
    tags=["catalogue"],
    opt=documented(
        query=DatasetQuery, answers={200: {JSON: Dataset}}, raises=(UnknownThing, Invalid, DatabaseUnavailable)
    ),
)
async def get_dataset(request: AnyRequest, dataset_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[bytes]:
    name, page = dataset_id.removeprefix("/"), read_query(request, PAGE)
    found = await queries.select_dataset(parts.database, name) if is_entry_id(name) else ()
    if not found:
        raise UnknownThing(f"there is no dataset {printable(name)!r}; POST {DATASETS} registers one")
    rows: Any = msgspec.json.decode(found[0]["rows"], type=list[Raw])[page.offset : page.offset + page.limit]
    return Response(msgspec.json.encode(Dataset(**{**found[0], "rows": rows})), media_type=JSON)


@post(
    "/datasets",
    operation_id="registerDataset",
    summary="Register a dataset",
    description="As one JSON object, or as JSON Lines with a row a line and `dataset_id` in the query. At most 1 MiB "
    "and 10 000 rows. 201 once it is stored, 202 if that is late, 200 if the same was there already.",
    tags=["catalogue"],
    opt=documented(
        query=LinesQuery,
        body={JSON: DatasetRequest, **dict.fromkeys(JSON_LINES)},
        answers={200: {JSON: DatasetSummary}, 201: {JSON: DatasetSummary}, 202: {JSON: DatasetSummary}},
        answer_headers=(Header("Location", "Where the dataset is found"),),
        raises=(*BODY_PROBLEMS, DefinedOtherwise, BrokerUnavailable, OutcomeUnknown, DatabaseUnavailable),
    ),
)
async def register_dataset(request: AnyRequest, parts: NamedDependency[Parts]) -> Response[bytes]:
    query = read_query(request, LINES)
    content_type, body = await read_body(request, JSON, *JSON_LINES)
    definition = _definition(FORM.read(body) if content_type == JSON else _read_lines(query, body))
    before = await _find_same(parts, definition)
    if before is not None:
        return _answer(200, before)
    event_id = uuid4()
    with parts.log.expecting(event_id) as stored:
        await parts.bus.publish(
            DatasetRegistered(dataset=definition, registered_at=datetime.now(UTC)), event_id=event_id
        )
        if not await parts.log.stored(stored, STORED_WITHIN_S):
            return _answer(202, _summary(definition))
    return _answer(201, await _find_same(parts, definition) or _summary(definition))


def _read_lines(query: LinesQuery, body: bytes) -> RawDataset:
    if query.dataset_id is None:
        raise Invalid([FieldError("dataset_id", "is required in the query of JSON Lines", "missing")])
    lines = [line for line in body.split(b"\n") if line.strip()]
    rows = [_read_line(index, line) for index, line in enumerate(lines)]
    return FORM.convert({"dataset_id": query.dataset_id, "description": query.description or "", "rows": rows})


def _read_line(index: int, line: bytes) -> Any:
    try:
        return parse_json(line)
    except Unreadable as error:
        raise Invalid([FieldError(f"rows[{index}]", str(error))]) from error


def _definition(asked: RawDataset) -> DatasetDefinition:
    """Raises Invalid, with each row's errors under its index."""
    errors: list[FieldError] = []
    rows = []
    for index, given in enumerate(asked.rows):
        wrong, valid = ROW.check(given) if isinstance(given, dict) else ([FieldError("", "must be an object")], {})
        errors += [FieldError(f"rows[{index}].{one.field}".rstrip("."), one.message, one.code) for one in wrong]
        if len(errors) >= MOST_ERRORS:
            break
        if not wrong:
            rows.append(DatasetRow(**valid))
    if errors:
        raise Invalid(errors[:MOST_ERRORS])
    return DatasetDefinition(dataset_id=asked.dataset_id, rows=tuple(rows), description=asked.description)


async def _find_same(parts: Parts, definition: DatasetDefinition) -> DatasetSummary | None:
    """Raises DefinedOtherwise where the id means something else."""
    found = await queries.select_dataset(parts.database, definition.dataset_id)
    if not found:
        return None
    rows = msgspec.json.decode(found[0]["rows"], type=tuple[DatasetRow, ...])
    if (rows, found[0]["description"]) != (definition.rows, definition.description):
        raise DefinedOtherwise(f"{definition.dataset_id!r} is registered with other rows or another description")
    return _summary(definition, found[0])


def _summary(definition: DatasetDefinition, stored: asyncpg.Record | None = None) -> DatasetSummary:
    return DatasetSummary(
        dataset_id=definition.dataset_id,
        description=definition.description,
        row_count=len(definition.rows),
        registered_at=stored["registered_at"] if stored else None,
    )


def _answer(status: int, dataset: DatasetSummary) -> Response[bytes]:
    return Response(
        msgspec.json.encode(dataset),
        status_code=status,
        media_type=JSON,
        headers={"Location": f"{DATASETS}/{dataset.dataset_id}"},
    )


ROUTES = (list_datasets, get_dataset, register_dataset)
