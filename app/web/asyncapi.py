"""The AsyncAPI document: every event that others can subscribe to on the broker."""

from typing import Any, get_args

import msgspec
from litestar import Response, get

from app.web.documentation import VERSION
from app.web.reading import JSON
from events.envelope import CONTENT_TYPE
from events.messages import AnyEvent, BenchmarkRequested, type_of

EXCHANGE = {"name": "llmbench.events", "type": "topic", "durable": True}
SCHEMAS = "#/components/schemas/"


def describe() -> dict[str, Any]:
    """AsyncAPI 3.0; each event is a CloudEvent in structured JSON, and its type is its routing key."""
    kinds = get_args(AnyEvent)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=SCHEMAS + "{name}")
    data_of = dict(zip(kinds, schemas, strict=True))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "LLM Bench events",
            "version": VERSION,
            "description": "Bind a queue of your own to the exchange; never read ours. An event may come more than "
            "once: its id stays the same.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {type_of(kind): _channel(kind) for kind in kinds},
        "operations": {
            f"send.{type_of(kind)}": {"action": "send", "channel": {"$ref": f"#/channels/{type_of(kind)}"}}
            for kind in kinds
        },
        "components": {
            "messages": {type_of(kind): _message(kind, data_of[kind]) for kind in kinds},
            "schemas": components,
        },
    }


def _channel(kind: type[AnyEvent]) -> dict[str, Any]:
    name = type_of(kind)
    channel: dict[str, Any] = {
        "address": name,
        "messages": {"event": {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"amqp": {"is": "routingKey", "exchange": EXCHANGE}},
    }
    if kind is BenchmarkRequested:
        channel |= {"address": f"{name}.{{pool}}", "parameters": {"pool": {"description": "The pool that runs it."}}}
    return channel


def _message(kind: type[AnyEvent], data: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    attributes = {
        "specversion": {"const": "1.0"},
        "id": text | {"format": "uuid"},
        "source": text | {"description": "The process that says it."},
        "type": {"const": type_of(kind)},
        "subject": {"type": ["string", "null"], "description": "The job it is about."},
        "time": text | {"format": "date-time"},
        "datacontenttype": {"const": JSON},
        "data": data,
    }
    return {
        "name": type_of(kind),
        "contentType": CONTENT_TYPE,
        "payload": {"type": "object", "required": [*attributes], "properties": attributes},
    }


@get("/asyncapi.json", sync_to_thread=False)
def get_asyncapi() -> Response[bytes]:
    return Response(msgspec.json.encode(describe()), media_type=JSON)


ROUTES = (get_asyncapi,)
