"""What subscribers see. A golden file a type: who changes one changes what others were promised."""

from pathlib import Path
from typing import get_args
from uuid import UUID, uuid4

import msgspec
import pytest

from events.envelope import Undecodable, decode, encode, routing_key
from events.messages import AnyEvent, DatasetRetired, ModelRetired, type_of
from tests import builders
from tests.builders import JOB, NOON, REQUEST, requested

GOLDEN = Path(__file__).parent / "golden"

ONE_OF_EACH: list[AnyEvent] = [
    builders.requested(),
    builders.started(),
    builders.progressed(),
    builders.sampled(),
    builders.completed(),
    builders.failed(),
    builders.cancel_requested(),
    builders.cancelled(),
    builders.model_registered(),
    ModelRetired(model_id="gpt2", retired_at=NOON),
    builders.dataset_registered(),
    DatasetRetired(dataset_id="two", retired_at=NOON),
    builders.reported(),
]


def on_the_wire(event: AnyEvent) -> bytes:
    return encode(event, event_id=REQUEST, source="tests", time=NOON)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=type_of)
def test_an_event_looks_on_the_wire_as_its_golden_file(event: AnyEvent) -> None:
    golden = (GOLDEN / f"{type_of(event)}.json").read_bytes()

    assert msgspec.json.decode(on_the_wire(event)) == msgspec.json.decode(golden)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=type_of)
def test_an_event_comes_back_as_it_went(event: AnyEvent) -> None:
    envelope, back = decode(on_the_wire(event))

    assert (back, envelope.id, envelope.time, envelope.source) == (event, REQUEST, NOON, "tests")


def test_every_type_of_the_union_has_a_golden_file() -> None:
    types = {type_of(event) for event in get_args(AnyEvent)}

    assert types == {type_of(event) for event in ONE_OF_EACH} == {path.stem for path in GOLDEN.glob("*.json")}


def test_fields_that_were_added_later_are_ignored() -> None:
    wire = msgspec.json.decode(on_the_wire(requested()))
    wire["data"]["a_later_idea"] = 1
    wire["traceparent"] = "00-…"

    assert decode(msgspec.json.encode(wire))[1] == requested()


def test_a_request_is_routed_to_its_pool() -> None:
    assert routing_key(requested(pool="gpu")) == "benchmark.requested.v1.gpu"


def test_an_undecodable_request_still_names_its_job() -> None:
    wire = msgspec.json.decode(on_the_wire(requested()))
    wire["data"]["spec"] = "nonsense"

    with pytest.raises(Undecodable) as caught:
        decode(msgspec.json.encode(wire))

    assert (caught.value.job_id, caught.value.event_id) == (JOB, REQUEST)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"[" * 50_000, b'{"data": {"job_id": 3}}'])
def test_a_body_that_is_no_event_is_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable) as caught:
        decode(body)

    assert caught.value.job_id is None


def test_an_envelope_that_disagrees_with_its_data_is_undecodable() -> None:
    wire = msgspec.json.decode(on_the_wire(requested()))
    wire["type"] = "benchmark.started.v1"

    with pytest.raises(Undecodable, match=r"benchmark\.started\.v1"):
        decode(msgspec.json.encode(wire))


def test_ids_are_uuids_on_the_wire() -> None:
    event_id = uuid4()

    envelope, _ = decode(encode(requested(), event_id=event_id, source="tests", time=NOON))

    assert isinstance(envelope.id, UUID)
    assert envelope.subject == str(JOB)
