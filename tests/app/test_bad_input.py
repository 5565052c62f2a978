"""Bad input, and what it gets. Never a 500, never a hang, never a lost job."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.benchmark import EXAMPLE
from events.messages import BenchmarkRequested
from tests.app.serving import Api, kind, problem, wrong_fields

BENCHMARKS = "/api/v1/benchmarks"
AS_JSON = {"Content-Type": "application/json"}


async def post_bytes(api: Api, body: bytes, content_type: str = "application/json") -> Any:
    return await api.post(BENCHMARKS, content=body, headers={"Content-Type": content_type})


async def test_an_unknown_field_is_named_with_what_may_have_been_meant(api: Api) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE | {"max_token": 5})

    assert kind(answer) == (422, "validation-error")
    assert problem(answer)["errors"] == [
        {"field": "max_token", "message": "is unknown; did you mean 'max_tokens'?", "code": "unknown_field"}
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 8193),
        ("max_tokens", "50"),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", None),
        ("max_tokens", 10**30),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("top_k", 1001),
        ("iterations", 0),
        ("iterations", 1001),
        ("warmup_iterations", -1),
        ("warmup_iterations", 101),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", "a"),
        ("stop", [""]),
        ("stop", ["x" * 65]),
        ("stop", ["x"] * 9),
        ("stop", ["\x00"]),
        ("sample_interval_ms", 49),
        ("sample_interval_ms", 5001),
        ("timeout_s", 0),
        ("timeout_s", 1501),
        ("labels", {str(number): "x" for number in range(17)}),
        ("labels", {"": "x"}),
        ("labels", {"k" * 65: "x"}),
        ("labels", {"k": "x" * 257}),
        ("labels", {"k": 1}),
        ("labels", {"k\x00": "x"}),
        ("device", "tpu"),
        ("weights", "none"),
        ("use_gpu", "yes"),
        ("ignore_eos", 1),
        ("prompt", ""),
        ("prompt", " \n\t"),
        ("prompt", "x" * 65_537),
        ("prompt", "é" * 32_769),
        ("prompt", 7),
        ("prompt", "a\x00b"),
        ("prompt", "a\ud800b"),
        ("model_id", ""),
        ("model_id", 5),
        ("task", 5),
    ],
)
async def test_a_field_that_breaks_its_rule_is_named(api: Api, field: str, value: object) -> None:
    answer = await post_bytes(api, json.dumps(EXAMPLE | {field: value}).encode())

    assert kind(answer) == (422, "validation-error")
    assert {name.split("[")[0].split(".")[0] for name in wrong_fields(answer)} == {field}


async def test_all_wrong_fields_are_named_at_once(api: Api) -> None:
    answer = await api.post(
        BENCHMARKS, {"prompt": " ", "max_tokens": 0, "temperature": 9, "top_p": 0, "stop": ["ok", 3], "nonsense": 1}
    )

    assert wrong_fields(answer) == {
        "model_id", "prompt", "max_tokens", "temperature", "top_p", "stop[1]", "nonsense",
    }  # fmt: skip


async def test_the_largest_prompt_is_accepted(api: Api) -> None:
    await api.submit(prompt="é" * 32_768)


async def test_more_tokens_than_a_result_can_hold_name_what_they_come_from(api: Api) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE | {"iterations": 99, "warmup_iterations": 2, "max_tokens": 2000})

    assert kind(answer) == (422, "validation-error")
    assert wrong_fields(answer) == {"iterations", "warmup_iterations", "max_tokens"}


async def test_a_contradiction_is_refused(api: Api) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE | {"use_gpu": False, "device": "cuda"})

    assert wrong_fields(answer) == {"device"}


async def test_an_unknown_task_gets_the_supported_ones(api: Api) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE | {"task": "translation"})

    assert kind(answer) == (422, "validation-error")
    assert "text-generation" in problem(answer)["errors"][0]["message"]


async def test_an_unknown_model_gets_the_way_to_register_it(api: Api) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE | {"model_id": "nobody/nothing"})

    assert kind(answer) == (422, "unknown-model")
    assert wrong_fields(answer) == {"model_id"}
    assert "POST /api/v1/models" in problem(answer)["errors"][0]["message"]


@pytest.mark.parametrize("model_id", ["../../etc/passwd", "a b", "x" * 200, "é", "/gpt2", "gpt2/"])
async def test_a_model_id_that_cannot_be_one_is_unknown(api: Api, model_id: str) -> None:
    assert kind(await api.post(BENCHMARKS, EXAMPLE | {"model_id": model_id})) == (422, "unknown-model")


@pytest.mark.parametrize("option", ["dataset_id", "messages", "dtype", "batch_size", "num_beams", "revision"])
async def test_an_option_that_is_not_built_is_refused_by_name(api: Api, option: str) -> None:
    answer = await api.post(BENCHMARKS, EXAMPLE | {option: None})

    assert kind(answer) == (422, "unsupported_option")
    assert wrong_fields(answer) == {option}


async def test_an_option_that_is_not_built_wins_over_what_is_missing_for_it(api: Api) -> None:
    answer = await api.post(BENCHMARKS, {"model_id": "gpt2", "dataset_id": "builtin/questions"})

    assert kind(answer) == (422, "unsupported_option")
    assert wrong_fields(answer) == {"dataset_id", "prompt"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b'{"prompt": NaN}',
        b'{"temperature": Infinity}',
        b'{"a": 1} {"b": 2}',
        b"[" * 50_000,
        b"[" * 50_000 + b"]" * 50_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a\nb"}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe",
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_what_is_no_json_is_unreadable(api: Api, body: bytes) -> None:
    assert kind(await post_bytes(api, body)) == (400, "unreadable-body")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null"])
async def test_json_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    assert kind(await post_bytes(api, body)) == (422, "validation-error")


async def test_bytes_that_are_no_utf8_name_their_field(api: Api) -> None:
    answer = await post_bytes(api, b'{"model_id": "gpt2", "prompt": "a\xffb"}')

    assert kind(answer) == (422, "validation-error")
    assert wrong_fields(answer) == {"prompt"}


async def test_a_number_beyond_all_bounds_names_its_field(api: Api) -> None:
    answer = await post_bytes(api, b'{"model_id": "gpt2", "prompt": "a", "temperature": 1e999}')

    assert wrong_fields(answer) == {"temperature"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", ""])
async def test_a_wrong_content_type_is_said(api: Api, content_type: str) -> None:
    assert kind(await post_bytes(api, json.dumps(EXAMPLE).encode(), content_type)) == (415, "wrong-content-type")


async def test_a_content_type_may_say_its_charset(api: Api) -> None:
    answer = await post_bytes(api, json.dumps(EXAMPLE).encode(), "Application/JSON; charset=utf-8")

    assert answer.status_code == 202


@pytest.mark.parametrize("size", [1_048_577, 5_000_000])
async def test_a_body_over_a_mebibyte_is_too_large(api: Api, size: int) -> None:
    assert kind(await post_bytes(api, b'"' + b"x" * size + b'"')) == (413, "body-too-large")


async def test_a_body_over_a_mebibyte_in_chunks_is_too_large(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 65_536

    answer = await api.post(BENCHMARKS, content=chunks(), headers=AS_JSON)

    assert kind(answer) == (413, "body-too-large")


async def test_sixty_thousand_unknown_fields_get_a_short_answer(api: Api) -> None:
    answer = await post_bytes(api, json.dumps(dict.fromkeys(map(str, range(60_000)), 1)).encode())

    assert answer.status_code == 422
    assert len(answer.content) < 20_000


@pytest.mark.parametrize("suffix", ["", "/metrics", "/iterations", "/events"])
async def test_an_unknown_job_is_not_found(api: Api, suffix: str) -> None:
    assert kind(await api.get(f"{BENCHMARKS}/{uuid4()}{suffix}")) == (404, "not-found")


@pytest.mark.parametrize("suffix", ["", "/metrics", "/iterations", "/events"])
@pytest.mark.parametrize("job_id", ["1", "x" * 36, "%00", "%ff%fe", "00000000-0000-4000-8000-00000000000g"])
async def test_a_malformed_job_id_is_named(api: Api, job_id: str, suffix: str) -> None:
    answer = await api.get(f"{BENCHMARKS}/{job_id}{suffix}")

    assert kind(answer) == (422, "validation-error")
    assert wrong_fields(answer) == {"job_id"}


async def test_to_cancel_what_is_unknown_or_malformed_is_refused(api: Api) -> None:
    assert kind(await api.post(f"{BENCHMARKS}/{uuid4()}/cancel")) == (404, "not-found")
    assert kind(await api.post(f"{BENCHMARKS}/7/cancel")) == (422, "validation-error")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "many"),
        ("limit", ""),
        ("cursor", "nonsense"),
        ("cursor", "bm90IGEgY3Vyc29y"),
        ("cursor", "\x00"),
        ("cursor", "é"),
        ("cursor", "x" * 300),
        ("status", "done"),
        ("task", "x"),
        ("device", "tpu"),
        ("created_after", "yesterday"),
        ("created_after", "2026-01-01T00:00:00"),
        ("created_before", "0001-01-01T00:00:00+14:00"),
        ("created_before", "9999-12-31T23:59:59-14:00"),
        ("model_id", "a\x00"),
        ("label", "nothing"),
        ("label", ":x"),
        ("label", "a:\x00"),
        ("nonsense", "1"),
    ],
)
async def test_a_parameter_that_breaks_its_rule_is_named(api: Api, parameter: str, value: str) -> None:
    answer = await api.get(BENCHMARKS, params={parameter: value})

    assert kind(answer) == (422, "validation-error")
    assert {name.split("[")[0] for name in wrong_fields(answer)} == {parameter}


async def test_a_parameter_given_twice_is_named(api: Api) -> None:
    assert wrong_fields(await api.get(f"{BENCHMARKS}?limit=1&limit=2")) == {"limit"}


@pytest.mark.parametrize("max_points", ["0", "1", "-5", "x"])
async def test_max_points_below_two_is_refused(api: Api, max_points: str) -> None:
    job = await api.submit()

    answer = await api.get(f"{BENCHMARKS}/{job['job_id']}/metrics", params={"max_points": max_points})

    assert wrong_fields(answer) == {"max_points"}


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ALMOST_A_BENCHMARK = st.dictionaries(
    st.sampled_from([*EXAMPLE, "stop", "labels", "seed", "iterations", "device", "dtype", "x"]), ANY_JSON
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary() | (ANY_JSON | ALMOST_A_BENCHMARK | ALMOST_A_BENCHMARK.map(EXAMPLE.__or__)).map(json.dumps))
async def test_no_body_whatever_makes_the_app_fail(api: Api, body: bytes | str) -> None:
    answer = await post_bytes(api, body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass"))

    assert answer.status_code in (202, 400, 422)
    if answer.status_code != 202:
        assert problem(answer)["type"].startswith("urn:llm-bench:problem:")


async def test_whatever_was_refused_was_not_published(api: Api) -> None:
    before = len(api.bus.published)

    await api.post(BENCHMARKS, EXAMPLE | {"max_tokens": 0})
    await api.post(BENCHMARKS, EXAMPLE | {"model_id": "nobody/nothing"})

    assert not any(isinstance(event, BenchmarkRequested) for _, event in api.bus.published[before:])
