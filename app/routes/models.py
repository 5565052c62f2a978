"""The models of the catalogue."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta, Struct

from app.parts import AnyRequest, Parts
from app.state import queries
from app.state.database import DatabaseUnavailable
from app.web.documentation import Header, documented
from app.web.problems import BODY_PROBLEMS, DefinedOtherwise, FieldError, UnknownThing
from app.web.reading import ENTRY_ID, JSON, Form, is_entry_id, printable, read_body
from events.benchmark import ModelDefinition
from events.bus import BrokerUnavailable, OutcomeUnknown
from events.messages import ModelRegistered

MODELS = "/api/v1/models"
STORED_WITHIN_S = 2.0
LARGEST_ARCHITECTURE = 65_536


class ModelRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to register. Without an architecture only pretrained weights can be had."""

    model_id: Annotated[
        str, Meta(pattern=ENTRY_ID, max_length=200, description="How benchmarks name it.", examples=["org/model"])
    ]
    repository: (
        Annotated[str, Meta(pattern=ENTRY_ID, max_length=200, description="On the hub; `model_id` if left out.")] | None
    ) = None
    revision: Annotated[str, Meta(pattern=ENTRY_ID, max_length=128, description="A branch, tag or commit.")] | None = (
        None
    )
    architecture: (
        Annotated[
            dict[str, Any], Meta(description="The transformers configuration, with `model_type`, for random weights.")
        ]
        | None
    ) = None
    description: Annotated[str, Meta(max_length=1000)] = ""


def model_rule(valid: Mapping[str, Any]) -> Iterator[FieldError]:
    architecture = valid.get("architecture")
    if architecture is None:
        return
    if not (isinstance(architecture.get("model_type"), str) and architecture["model_type"]):
        yield FieldError("architecture.model_type", "is required, as text, in an architecture", "missing")
    if len(msgspec.json.encode(architecture)) > LARGEST_ARCHITECTURE:
        yield FieldError("architecture", f"has more than {LARGEST_ARCHITECTURE} bytes of JSON")


FORM = Form(ModelRequest, model_rule, free=True)


class Model(ModelDefinition, frozen=True, kw_only=True):
    """`registered_at` is null while it is not stored yet."""

    registered_at: datetime | None


class Models(Struct, frozen=True, kw_only=True):
    items: list[Model]


@get(
    "/models",
    operation_id="listModels",
    summary="The models that can be benchmarked",
    tags=["catalogue"],
    opt=documented(answers={200: {JSON: Models}}, raises=(DatabaseUnavailable,)),
)
async def list_models(parts: NamedDependency[Parts]) -> Response[bytes]:
    rows = await queries.select_models(parts.database)
    return Response(msgspec.json.encode(Models(items=[_model(row) for row in rows])), media_type=JSON)


@get(
    "/models/{model_id:path}",
    operation_id="getModel",
    summary="One model; its id may contain `/`",
    tags=["catalogue"],
    opt=documented(answers={200: {JSON: Model}}, raises=(UnknownThing, DatabaseUnavailable)),
)
async def get_model(model_id: FromPath[str], parts: NamedDependency[Parts]) -> Response[bytes]:
    name = model_id.removeprefix("/")
    rows = await queries.select_model(parts.database, name) if is_entry_id(name) else ()
    if not rows:
        raise UnknownThing(f"the catalogue has no model {printable(name)!r}; POST {MODELS} registers one")
    return Response(msgspec.json.encode(_model(rows[0])), media_type=JSON)


@post(
    "/models",
    operation_id="registerModel",
    summary="Register a model",
    description="201 once it is stored, 202 if that is late, 200 if the same was there already.",
    tags=["catalogue"],
    opt=documented(
        body={JSON: ModelRequest},
        answers={200: {JSON: Model}, 201: {JSON: Model}, 202: {JSON: Model}},
        answer_headers=(Header("Location", "Where the model is found"),),
        raises=(*BODY_PROBLEMS, DefinedOtherwise, BrokerUnavailable, OutcomeUnknown, DatabaseUnavailable),
    ),
)
async def register_model(request: AnyRequest, parts: NamedDependency[Parts]) -> Response[bytes]:
    _, body = await read_body(request, JSON)
    definition = _definition(FORM.read(body))
    before = await _find_same(parts, definition)
    if before is not None:
        return _answer(200, before)
    event_id = uuid4()
    with parts.log.expecting(event_id) as stored:
        await parts.bus.publish(ModelRegistered(model=definition, registered_at=datetime.now(UTC)), event_id=event_id)
        if not await parts.log.stored(stored, STORED_WITHIN_S):
            return _answer(202, Model(**msgspec.structs.asdict(definition), registered_at=None))
    after = await _find_same(parts, definition)
    return _answer(201, after or Model(**msgspec.structs.asdict(definition), registered_at=None))


async def _find_same(parts: Parts, definition: ModelDefinition) -> Model | None:
    """Raises DefinedOtherwise where the id means something else."""
    rows = await queries.select_model(parts.database, definition.model_id)
    if not rows:
        return None
    if msgspec.json.decode(rows[0]["definition"], type=ModelDefinition) != definition:
        raise DefinedOtherwise(f"{definition.model_id!r} is registered with another definition")
    return _model(rows[0])


def _definition(asked: ModelRequest) -> ModelDefinition:
    return ModelDefinition(
        model_id=asked.model_id,
        repository=asked.repository or asked.model_id,
        revision=asked.revision,
        architecture=asked.architecture,
        description=asked.description,
    )


def _model(row: asyncpg.Record) -> Model:
    definition = msgspec.json.decode(row["definition"], type=ModelDefinition)
    return Model(**msgspec.structs.asdict(definition), registered_at=row["registered_at"])


def _answer(status: int, model: Model) -> Response[bytes]:
    return Response(
        msgspec.json.encode(model),
        status_code=status,
        media_type=JSON,
        headers={"Location": f"{MODELS}/{model.model_id}"},
    )


ROUTES = (list_models, get_model, register_model)
