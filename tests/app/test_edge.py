"""What holds for every route: methods, origins, errors, documentation."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from app.benchmark import EXAMPLE
from app.routes.events import TYPES
from tests.app import serving
from tests.app.serving import Api, kind, problem

ORIGIN = "https://bench.example.org"


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v1", "/api/v1/nothing", "/api/v2/benchmarks", "/docs/assets/x.js", "/.env"]
)
async def test_an_unknown_address_is_a_problem_too(api: Api, path: str) -> None:
    assert kind(await api.get(path)) == (404, "not-found")


async def test_a_wrong_method_is_told_which_ones_there_are(api: Api) -> None:
    answer = await api.client.delete("/api/v1/benchmarks")

    assert kind(answer) == (405, "method-not-allowed")
    assert {"GET", "POST"} <= set(re.split(", ?", answer.headers["allow"]))


async def test_an_error_that_nobody_foresaw_tells_nothing_of_the_inside(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr("app.state.queries.select_models", fail)

    answer = await api.get("/api/v1/models")

    assert kind(answer) == (500, "internal-error")
    assert "secret" not in answer.text
    assert "a secret of the inside" in caplog.text


@pytest.mark.parametrize("path", ["/api/v1/benchmarks", "/api/v1/models/gpt2", "/docs", "/api/v1/nothing"])
async def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    head, get = await api.client.head(path), await api.get(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_head_of_a_stream_ends(api: Api) -> None:
    job = await api.submit()

    answer = await api.client.head(job["links"]["events"])

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/api/v1/benchmarks", {"GET", "POST", "OPTIONS"}), ("/api/v1/models/a/b", {"GET", "OPTIONS"})],
)
async def test_options_tells_the_methods(api: Api, path: str, methods: set[str]) -> None:
    answer = await api.client.options(path)

    assert (answer.status_code, answer.content) == (204, b"")
    assert set(answer.headers["allow"].split(", ")) == methods


async def test_options_of_nothing_is_not_found(api: Api) -> None:
    assert kind(await api.client.options("/api/v1/nothing")) == (404, "not-found")


async def test_pages_of_an_allowed_origin_may_use_the_api(database_url: str) -> None:
    async with serving.api(database_url, cors_origins=(ORIGIN,)) as api:
        asks = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        preflight = await api.client.options("/api/v1/benchmarks", headers=asks)
        posted = await api.post("/api/v1/benchmarks", EXAMPLE, headers={"Origin": ORIGIN})
        missing = await api.get("/api/v1/nothing", headers={"Origin": ORIGIN})
        stranger = await api.get("/api/v1/models", headers={"Origin": "https://evil.example.org"})

    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert {"Content-Type", "Idempotency-Key", "Last-Event-ID"} <= set(
        preflight.headers["access-control-allow-headers"].split(", ")
    )
    for answer in (preflight, posted, missing):
        assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (ORIGIN, "Origin")
    assert posted.headers["access-control-expose-headers"] == "Location, Retry-After"
    assert "access-control-allow-origin" not in stranger.headers


async def test_without_configured_origins_no_page_may(api: Api) -> None:
    answer = await api.get("/api/v1/models", headers={"Origin": ORIGIN})

    assert "access-control-allow-origin" not in answer.headers


async def document(api: Api) -> dict[str, Any]:
    answer = await api.get("/docs/openapi.json")
    assert answer.status_code == 200
    described: dict[str, Any] = answer.json()
    return described


async def test_every_route_is_documented_under_a_name_of_its_own(api: Api) -> None:
    described = await document(api)

    served = {
        route.path_format
        for route in api.app.routes
        if not route.path_format.startswith("/docs") and route.path_format not in ("/", "/asyncapi.json")
    }
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]) == served
    assert len(set(names)) == len(names)
    assert all(names)


async def test_every_reference_of_the_documentation_leads_somewhere(api: Api) -> None:
    described = await document(api)

    references = set(re.findall(r"#/components/schemas/(\w+)", str(described)))

    assert references == set(described["components"]["schemas"])


async def test_the_documentation_tells_limits_choices_and_defaults(api: Api) -> None:
    described = await document(api)

    fields = described["components"]["schemas"]["BenchmarkRequest"]["properties"]
    [status] = [
        parameter
        for parameter in described["paths"]["/api/v1/benchmarks"]["get"]["parameters"]
        if parameter["name"] == "status"
    ]
    assert (fields["max_tokens"]["minimum"], fields["max_tokens"]["maximum"], fields["max_tokens"]["default"]) == (
        1,
        8192,
        50,
    )
    assert set(status["schema"]["enum"]) == {"queued", "running", "cancelling", "completed", "failed", "cancelled"}
    assert described["components"]["schemas"]["BenchmarkRequest"]["additionalProperties"] is False


async def test_the_example_of_the_documentation_is_accepted(api: Api) -> None:
    described = await document(api)

    body = described["paths"]["/api/v1/benchmarks"]["post"]["requestBody"]["content"]["application/json"]

    assert (await api.post("/api/v1/benchmarks", body["example"])).status_code == 202


class Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


async def test_the_documentation_page_needs_no_network(api: Api) -> None:
    page = await api.client.get("/", follow_redirects=True)
    addresses = Addresses()
    addresses.feed(page.text)

    files = [await api.get(address) for address in addresses.found if address != "data:,"]

    assert page.headers["content-type"].startswith("text/html")
    assert all(address.startswith(("/docs/", "data:")) for address in addresses.found)
    assert [file.status_code for file in files] == [200, 200, 200]
    assert "swagger-ui" in files[0].text
    assert "/docs/openapi.json" in files[2].text


async def test_every_event_that_others_can_hear_is_documented(api: Api) -> None:
    described = (await api.get("/asyncapi.json")).json()

    references = set(re.findall(r"#/components/schemas/(\w+)", str(described)))
    assert described["asyncapi"].startswith("3.")
    assert set(described["channels"]) == set(TYPES)
    assert described["channels"]["benchmark.requested.v1"]["address"] == "benchmark.requested.v1.{pool}"
    assert references <= set(described["components"]["schemas"])


async def test_prometheus_reads_gauges(api: Api) -> None:
    answer = await api.get("/metrics")

    values = dict(line.split(" ") for line in answer.text.splitlines() if not line.startswith("#"))
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert (values["llmbench_broker_up"], values["llmbench_log_followed"]) == ("1", "1")
    assert 'llmbench_workers_alive{pool="gpu"}' in values


async def test_a_problem_tells_where_it_happened(api: Api) -> None:
    assert problem(await api.get("/api/v1/models/nobody"))["instance"] == "/api/v1/models/nobody"
