"""The outermost layer: HEAD for every GET, OPTIONS for every address, and CORS for the origins that are allowed."""

from collections.abc import Collection

from litestar.enums import HttpMethod, ScopeType
from litestar.status_codes import HTTP_204_NO_CONTENT, HTTP_405_METHOD_NOT_ALLOWED
from litestar.types import ASGIApp, HTTPDisconnectEvent, HTTPResponseBodyEvent, Message, Receive, Scope, Send

ALLOWED_HEADERS = b"Accept, Content-Type, Idempotency-Key, Last-Event-ID"
ALLOWED_METHODS = b"GET, HEAD, POST, OPTIONS"
EXPOSED_HEADERS = b"Location, Retry-After"
PREFLIGHT_LIFE_S = b"600"

NO_BODY: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}


def answer_head(app: ASGIApp) -> ASGIApp:
    """Answer HEAD as GET without its body; to a stream it is as if whoever asked had gone."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] == HttpMethod.HEAD:
            await app({**scope, "method": HttpMethod.GET}, _gone, _head_alone(send))
        else:
            await app(scope, receive, send)

    return answer


def _head_alone(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send(NO_BODY)

    return send_head


async def _gone() -> HTTPDisconnectEvent:
    return {"type": "http.disconnect"}


def answer_options(app: ASGIApp) -> ASGIApp:
    """Tell the methods of an address: the router names them when it is asked for one that does not exist.

    Litestar's own answer leaves out methods, and announces a body that it does not send.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] == HttpMethod.OPTIONS:
            await app({**scope, "method": "NONE"}, receive, _methods_alone(send))  # type: ignore[typeddict-item]
        else:
            await app(scope, receive, send)

    return answer


def _methods_alone(send: Send) -> Send:
    refused = False

    async def send_methods(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start" and message["status"] == HTTP_405_METHOD_NOT_ALLOWED:
            refused = True
            allow = [(name, value) for name, value in message["headers"] if name == b"allow"]
            await send({"type": "http.response.start", "status": HTTP_204_NO_CONTENT, "headers": allow})
        elif refused:
            await send(NO_BODY)
        else:
            await send(message)

    return send_methods


def allow_origins(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Let pages of these origins read the answers; `*` is everybody. A page of another origin gets no permission."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        origin = _header(scope, b"origin")
        if origin is None or not ("*" in origins or origin.decode("latin-1") in origins):
            await app(scope, receive, send)
        elif _is_preflight(scope):
            await send({"type": "http.response.start", "status": HTTP_204_NO_CONTENT, "headers": _preflight(origin)})
            await send(NO_BODY)
        else:
            await app(scope, receive, _permitting(send, origin))

    return answer


def _permitting(send: Send, origin: bytes) -> Send:
    async def send_permitted(message: Message) -> None:
        if message["type"] == "http.response.start":
            permission = [*_permission(origin), (b"access-control-expose-headers", EXPOSED_HEADERS)]
            message["headers"] = [*message.get("headers", ()), *permission]
        await send(message)

    return send_permitted


def _preflight(origin: bytes) -> list[tuple[bytes, bytes]]:
    return [
        *_permission(origin),
        (b"access-control-allow-methods", ALLOWED_METHODS),
        (b"access-control-allow-headers", ALLOWED_HEADERS),
        (b"access-control-max-age", PREFLIGHT_LIFE_S),
    ]


def _permission(origin: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]


def _is_preflight(scope: Scope) -> bool:
    asked = scope["type"] == ScopeType.HTTP and scope["method"] == HttpMethod.OPTIONS
    return asked and _header(scope, b"access-control-request-method") is not None


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
