import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from app.benchmark import EXAMPLE
from consumers.projection.seed import seed_datasets, seed_models
from events.messages import ModelRegistered, ModelRetired
from tests.app import serving
from tests.app.serving import Api, kind, wrong_fields
from tests.app.stories import Run
from tests.builders import NOON
from tests.waiting import until

MODELS, DATASETS = "/api/v1/models", "/api/v1/datasets"


def fresh(name: str = "test") -> str:
    return f"{name}/{uuid4()}"


async def test_the_catalogue_comes_with_models_and_a_dataset(api: Api) -> None:
    models = (await api.get(MODELS)).json()["items"]
    datasets = (await api.get(DATASETS)).json()["items"]

    assert {model.model_id for model in seed_models()} <= {model["model_id"] for model in models}
    assert {dataset.dataset_id for dataset in seed_datasets()} <= {dataset["dataset_id"] for dataset in datasets}


async def test_a_registered_model_is_found_and_can_be_benchmarked_at_once(api: Api) -> None:
    model = {"model_id": fresh(), "architecture": {"model_type": "gpt2", "n_layer": 1}, "description": "small"}

    answer = await api.post(MODELS, model)
    found = await api.get(answer.headers["location"])
    job = await api.submit(model_id=model["model_id"])

    assert (answer.status_code, found.status_code) == (201, 200)
    assert found.json() == answer.json()
    assert {name: found.json()[name] for name in (*model, "repository", "revision")} == {
        **model, "repository": model["model_id"], "revision": None,
    }  # fmt: skip
    assert job["model"] == model["model_id"]


async def test_the_same_definition_again_is_no_conflict_and_no_event(api: Api) -> None:
    model = {"model_id": fresh()}

    answers = [await api.post(MODELS, model) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == answers[1].json()
    registered = [event for event in api.bus.events if isinstance(event, ModelRegistered)]
    assert len([event for event in registered if event.model.model_id == model["model_id"]]) == 1


async def test_another_definition_of_the_same_id_is_refused(api: Api) -> None:
    model = {"model_id": fresh()}
    await api.post(MODELS, model)

    answer = await api.post(MODELS, model | {"revision": "v2"})

    assert kind(answer) == (409, "defined-otherwise")


async def test_of_two_definitions_at_once_one_wins_and_the_other_is_told(api: Api) -> None:
    model_id = fresh()

    answers = await asyncio.gather(*(api.post(MODELS, {"model_id": model_id, "revision": r}) for r in ("a", "b")))

    assert sorted(answer.status_code for answer in answers) == [201, 409]


async def test_while_the_projection_is_late_a_registration_is_accepted(database_url: str) -> None:
    async with serving.api(database_url, projected=False) as api:
        model = await api.post(MODELS, {"model_id": "late/model"})
        dataset = await api.post(DATASETS, {"dataset_id": "late/rows", "rows": [{"prompt": "x"}]})

    assert [(answer.status_code, answer.json()["registered_at"]) for answer in (model, dataset)] == [(202, None)] * 2


async def test_a_retired_model_is_gone(api: Api) -> None:
    model_id = fresh()
    await api.post(MODELS, {"model_id": model_id})
    run = Run(api, await api.submit())

    await run.tell(ModelRetired(model_id=model_id, retired_at=NOON.replace(year=2099)))

    assert (await api.get(f"{MODELS}/{model_id}")).status_code == 404

    async def refused() -> bool:
        return (await api.post("/api/v1/benchmarks", EXAMPLE | {"model_id": model_id})).status_code == 422

    await until(refused)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_id", "../../x"),
        ("model_id", "a//b"),
        ("model_id", "/a"),
        ("model_id", "a\n"),
        ("model_id", "é"),
        ("model_id", "x" * 201),
        ("model_id", None),
        ("repository", "/etc/passwd"),
        ("repository", ".."),
        ("revision", "a b"),
        ("description", "x" * 1001),
        ("description", "\x00"),
        ("architecture", {}),
        ("architecture", {"model_type": 5}),
        ("architecture", []),
        ("architecture", {"model_type": "gpt2", "x": 2**70}),
        ("architecture", {"model_type": "gpt2", "x": {"y": "a\ud800"}}),
        ("architecture", {"model_type": "gpt2", "x": "y" * 70_000}),
        ("trust_remote_code", True),
    ],
)
async def test_a_wrong_field_of_a_model_is_named(api: Api, field: str, value: object) -> None:
    body = json.dumps({"model_id": fresh(), field: value})

    answer = await api.post(MODELS, content=body, headers={"Content-Type": "application/json"})

    assert kind(answer) == (422, "validation-error")
    assert {name.split(".")[0] for name in wrong_fields(answer)} == {field}


async def test_an_architecture_nested_beyond_reason_is_refused(api: Api) -> None:
    nested: dict[str, Any] = {}
    for _ in range(100):
        nested = {"deeper": nested}

    answer = await api.post(MODELS, {"model_id": fresh(), "architecture": {"model_type": "gpt2", "x": nested}})

    assert kind(answer) == (422, "validation-error")


@pytest.mark.parametrize("path", ["nobody/nothing", "%00", "..", "a%20b", "%F0%9F%98%80", "x" * 300, "a/%ff"])
async def test_what_the_catalogue_does_not_hold_is_not_found(api: Api, path: str) -> None:
    assert kind(await api.get(f"{MODELS}/{path}")) == (404, "not-found")
    assert kind(await api.get(f"{DATASETS}/{path}")) == (404, "not-found")


ROWS = [{"prompt": "1 + 1 =", "reference": "2"}, {"prompt": "Hi", "reference": None}]


async def test_a_dataset_is_registered_as_json(api: Api) -> None:
    dataset_id = fresh()

    answer = await api.post(DATASETS, {"dataset_id": dataset_id, "rows": ROWS, "description": "two"})
    found = (await api.get(answer.headers["location"])).json()

    assert answer.status_code == 201
    assert (found["dataset_id"], found["description"], found["row_count"]) == (dataset_id, "two", 2)
    assert found["rows"] == ROWS
    assert {name: value for name, value in found.items() if name != "rows"} == answer.json()


@pytest.mark.parametrize("content_type", ["application/jsonl", "application/x-ndjson"])
async def test_the_same_dataset_as_json_lines_is_the_same(api: Api, content_type: str) -> None:
    dataset_id = fresh()
    lines = '{"prompt": "1 + 1 =", "reference": "2"}\n\n{"prompt": "Hi"}\r\n'

    answers = [
        await api.post(
            DATASETS, content=lines, params={"dataset_id": dataset_id}, headers={"Content-Type": content_type}
        ),
        await api.post(DATASETS, {"dataset_id": dataset_id, "rows": ROWS}),
        await api.post(DATASETS, {"dataset_id": dataset_id, "rows": ROWS[:1]}),
    ]

    assert [answer.status_code for answer in answers] == [201, 200, 409]


async def test_rows_can_be_read_in_pages(api: Api) -> None:
    answer = await api.post(DATASETS, {"dataset_id": fresh(), "rows": [{"prompt": str(n)} for n in range(5)]})

    page = await api.get(answer.headers["location"], params={"offset": 3, "limit": 1})

    assert [row["prompt"] for row in page.json()["rows"]] == ["3"]
    assert page.json()["row_count"] == 5


async def test_each_wrong_row_is_named_by_its_index(api: Api) -> None:
    rows = [{"prompt": "ok"}, {"prompt": " "}, "text", {"reference": "x"}, {"prompt": "ok", "more": 1}, {"prompt": 5}]

    answer = await api.post(DATASETS, {"dataset_id": fresh(), "rows": rows})

    assert kind(answer) == (422, "validation-error")
    assert wrong_fields(answer) == {"rows[1].prompt", "rows[2]", "rows[3].prompt", "rows[4].more", "rows[5].prompt"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"dataset_id": "a b", "rows": ROWS}, "dataset_id"),
        ({"rows": ROWS}, "dataset_id"),
        ({"dataset_id": "a"}, "rows"),
        ({"dataset_id": "a", "rows": []}, "rows"),
        ({"dataset_id": "a", "rows": [{"prompt": "x"}] * 10_001}, "rows"),
        ({"dataset_id": "a", "rows": [{"prompt": "x\x00"}]}, "rows[0].prompt"),
        ({"dataset_id": "a", "rows": ROWS, "more": 1}, "more"),
    ],
)
async def test_a_wrong_field_of_a_dataset_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    answer = await api.post(DATASETS, body)

    assert kind(answer) == (422, "validation-error")
    assert wrong_fields(answer) == {field}


async def test_ten_thousand_rows_are_not_too_many(api: Api) -> None:
    answer = await api.post(DATASETS, {"dataset_id": fresh(), "rows": [{"prompt": "x"}] * 10_000})

    assert (answer.status_code, answer.json()["row_count"]) == (201, 10_000)


async def test_ten_thousand_wrong_rows_get_a_short_answer(api: Api) -> None:
    answer = await api.post(DATASETS, {"dataset_id": fresh(), "rows": [{"prompt": ""}] * 10_000})

    assert answer.status_code == 422
    assert len(answer.content) < 20_000


async def test_json_lines_name_what_is_wrong_with_them(api: Api) -> None:
    lines = {"Content-Type": "application/jsonl"}

    nameless = await api.post(DATASETS, content='{"prompt": "x"}', headers=lines)
    broken = await api.post(DATASETS, content='{"prompt": "x"}\n{', params={"dataset_id": fresh()}, headers=lines)
    wrong = await api.post(DATASETS, content='{"prompt": 1}', params={"dataset_id": fresh()}, headers=lines)

    assert wrong_fields(nameless) == {"dataset_id"}
    assert kind(broken) == (422, "validation-error")
    assert wrong_fields(broken) == {"rows[1]"}
    assert wrong_fields(wrong) == {"rows[0].prompt"}


async def test_a_broker_that_is_down_registers_nothing(api: Api) -> None:
    api.bus.available = False
    try:
        answer = await api.post(MODELS, {"model_id": fresh()})
    finally:
        api.bus.available = True

    assert kind(answer) == (503, "broker-unavailable")
