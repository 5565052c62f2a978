"""The OpenAPI document, made from what each route declares, and a page that shows it with no network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Redirect
from msgspec import NODEFAULT, Struct
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped] # it ships files, no types

from app.parts import AnyRequest
from app.web import problems
from app.web.problems import KINDS, Kind, Problem, UnknownThing
from app.web.reading import JSON

VERSION = "0.1.0"
DESCRIPTION = """What a language model costs on your hardware.

Submit a benchmark, follow it live over Server-Sent Events, and read what was measured. Every error is
`application/problem+json` (RFC 9457) with a stable `type`, and names all fields that break a rule at once."""

ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
}

PAGE = b"""<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>LLM Bench API</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/docs/assets/swagger-ui.css">
  </head>
  <body>
    <div id="page"></div>
    <script src="/docs/assets/swagger-ui-bundle.js"></script>
    <script src="/docs/assets/start.js"></script>
  </body>
</html>
"""

START = b"""SwaggerUIBundle({url: "/docs/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});
"""


class Header(Struct, frozen=True):
    name: str
    description: str


class Operation(Struct, frozen=True, kw_only=True):
    """What a route takes and answers. A media type whose content is no JSON stands with None."""

    query: type[Struct] | None = None
    headers: tuple[Header, ...] = ()
    body: Mapping[str, Any] = {}
    example: Mapping[str, Any] | None = None
    answers: Mapping[int, Mapping[str, Any]]
    answer_headers: tuple[Header, ...] = ()
    raises: tuple[type[Exception], ...] = ()


def documented(**declared: Any) -> dict[str, Any]:
    """The `opt` of a route."""
    return {"operation": Operation(**declared)}


def describe(app: Litestar) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes that declare an operation."""
    routes = list(_documented_routes(app))
    types = {id(kind): kind for _, _, operation in routes for kind in _types(operation)}
    types[id(Problem)] = Problem
    schemas, components = msgspec.json.schema_components(types.values(), ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for path, handler, operation in sorted(routes, key=lambda route: route[0]):
        for method in sorted(handler.http_methods):
            paths.setdefault(path, {})[method.lower()] = _operation(path, handler, operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "LLM Bench", "version": VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _documented_routes(app: Litestar) -> Iterator[tuple[str, HTTPRouteHandler, Operation]]:
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            operation = handler.opt.get("operation")
            if operation is not None:
                yield route.path_format, handler, operation


def _types(operation: Operation) -> Iterator[Any]:
    contents = [operation.body, *operation.answers.values()]
    yield from (kind for content in contents for kind in content.values() if kind is not None)


def _operation(
    path: str, handler: HTTPRouteHandler, operation: Operation, schema_of: Mapping[int, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": handler.operation_id,
        "summary": handler.summary,
        "tags": list(handler.tags or ()),
        "parameters": [*_path_parameters(path), *_query_parameters(operation), *map(_header, operation.headers)],
        "responses": _responses(path, operation, schema_of),
    }
    if handler.description:
        described["description"] = handler.description
    if operation.body:
        content = _content(operation.body, schema_of)
        if operation.example is not None:
            content[JSON]["example"] = operation.example
        described["requestBody"] = {"required": True, "content": content}
    return described


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": _path_schema(name)} for name in names]


def _path_schema(name: str) -> dict[str, Any]:
    return {"type": "string", "format": "uuid"} if name == "job_id" else {"type": "string"}


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    return [
        {
            "name": field.encode_name,
            "in": "query",
            "required": field.required,
            "schema": _query_schema(field),
        }
        for field in msgspec.structs.fields(operation.query)
    ]


def _query_schema(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.schema(field.type)
    alternatives = [one for one in schema.get("anyOf", [schema]) if one != {"type": "null"}]
    given: dict[str, Any] = alternatives[0]
    return given | ({"default": field.default} if field.default not in (NODEFAULT, None, ()) else {})


def _header(header: Header) -> dict[str, Any]:
    return {"name": header.name, "in": "header", "description": header.description, "schema": {"type": "string"}}


def _responses(path: str, operation: Operation, schema_of: Mapping[int, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, content in operation.answers.items():
        responses[str(status)] = {"description": _sentence(status)}
        if content:
            responses[str(status)]["content"] = _content(content, schema_of)
        if operation.answer_headers and status != 204:
            responses[str(status)]["headers"] = {
                header.name: {"description": header.description, "schema": {"type": "string"}}
                for header in operation.answer_headers
            }
    for status, kinds in _problems_by_status(operation).items():
        titles = "; ".join(f"{kind.title} (`{kind.type}`)" for kind in kinds)
        answer = responses.setdefault(str(status), {"description": titles, "content": {}})
        answer["content"][problems.MEDIA_TYPE] = {"schema": schema_of[id(Problem)]}
    return dict(sorted(responses.items()))


def _problems_by_status(operation: Operation) -> dict[int, list[Kind]]:
    by_status: dict[int, list[Kind]] = {problems.INTERNAL.status: [problems.INTERNAL]}
    for kind in dict.fromkeys(KINDS[error] for error in operation.raises):
        by_status.setdefault(kind.status, []).append(kind)
    return by_status


def _sentence(status: int) -> str:
    return {200: "OK", 201: "It is stored", 202: "It is accepted and kept", 204: "Nothing will follow"}.get(status, "")


def _content(content: Mapping[str, Any], schema_of: Mapping[int, Any]) -> dict[str, Any]:
    return {
        media_type: {"schema": {"type": "string"} if kind is None else schema_of[id(kind)]}
        for media_type, kind in content.items()
    }


@get("/", include_in_schema=False, sync_to_thread=False)
def show_documentation() -> Redirect:
    return Redirect("/docs")


@get("/docs", media_type=MediaType.HTML, sync_to_thread=False)
def get_documentation() -> Response[bytes]:
    return Response(PAGE, media_type=MediaType.HTML)


@get("/docs/openapi.json", sync_to_thread=False)
def get_openapi(request: AnyRequest) -> Response[bytes]:
    return Response(msgspec.json.encode(describe(request.app)), media_type=JSON)


@get("/docs/assets/{name:str}", sync_to_thread=True)
def get_asset(name: FromPath[str]) -> Response[bytes]:
    if name not in ASSETS:
        raise UnknownThing("the documentation has no such file")
    content = START if name == "start.js" else (swagger_ui_path / name).read_bytes()
    return Response(content, media_type=ASSETS[name], headers={"Cache-Control": "max-age=86400"})


ROUTES: Sequence[HTTPRouteHandler] = (show_documentation, get_documentation, get_openapi, get_asset)
