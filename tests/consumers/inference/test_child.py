"""A real measured process with a tiny model: what it generates, what it refuses, and how it dies."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from consumers.inference.child.protocol import Generate, Generated, Loaded, Resolve, Resolved, Tokens
from consumers.inference.engine import CannotStart, ChildDied, ChildEngine, Refusal, open_engine
from events.benchmark import ModelDefinition
from tests.builders import a_model
from tests.consumers.inference.conftest import REPOSITORY, REVISION

PRETRAINED = ModelDefinition(model_id="tiny", repository=REPOSITORY)
LONG_WINDED = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 16_384, "vocab_size": 500}
CHATTY = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 256, "vocab_size": 20}


def resolve(**changes: Any) -> Resolve:
    return replace(Resolve(model=a_model(), weights="random", device="cpu", use_gpu=False), **changes)


def generate(**changes: Any) -> Generate:
    default = Generate(
        prompt="Why is the sky blue?",
        max_tokens=8,
        temperature=0.7,
        top_p=0.9,
        top_k=0,
        seed=1,
        stop=(),
        ignore_eos=True,
    )
    return replace(default, **changes)


async def loaded(engine: ChildEngine, **changes: Any) -> tuple[Resolved, Loaded]:
    await engine.ready()
    return await engine.resolve(resolve(**changes)), await engine.load()


async def generated(engine: ChildEngine, **changes: Any) -> Generated:
    return await engine.generate(generate(**changes), lambda tokens: None)


async def refusal(engine: ChildEngine, **changes: Any) -> Refusal:
    await engine.ready()
    with pytest.raises(Refusal) as raised:
        await loaded(engine, **changes)
    return raised.value


async def test_the_same_model_again_is_warm(engine: ChildEngine) -> None:
    other = a_model(architecture=CHATTY)

    loads = [(await loaded(engine, model=model))[1] for model in (other, a_model(), a_model())]

    assert [load.warm for load in loads] == [False, False, True]
    assert (loads[1].load_ms > 0, loads[2].load_ms) == (True, 0.0)
    assert loads[1].facts["tokenizer"] == "built in code"


async def test_every_token_has_a_stamp_between_start_and_finish(engine: ChildEngine) -> None:
    await loaded(engine)

    one = await generated(engine, max_tokens=20)

    stamps = [one.started, one.tokenized, *one.token_stamps, one.finished]
    assert stamps == sorted(stamps)
    assert (len(one.token_stamps), one.finish_reason, one.output.isprintable()) == (20, "length", True)
    assert 3 <= one.prompt_tokens <= 12


async def test_the_same_seed_gives_the_same_text(engine: ChildEngine) -> None:
    await loaded(engine)

    texts = [(await generated(engine, seed=seed, max_tokens=20)).output for seed in (5, 5, 6)]

    assert texts[0] == texts[1] != texts[2]


async def test_without_temperature_no_seed_matters(engine: ChildEngine) -> None:
    await loaded(engine)

    texts = [(await generated(engine, seed=seed, temperature=0.0)).output for seed in (5, 6)]

    assert texts[0] == texts[1] != ""


async def test_top_k_of_one_is_greedy_and_none_is_not(engine: ChildEngine) -> None:
    await loaded(engine)
    greedy = (await generated(engine, temperature=0.0)).output

    one, off = [(await generated(engine, temperature=1.0, top_p=1.0, top_k=k)).output for k in (1, 0)]

    assert one == greedy != off


async def test_an_end_of_sequence_ends_the_text_unless_it_is_ignored(engine: ChildEngine) -> None:
    await loaded(engine, model=a_model(architecture={**CHATTY, "eos_token_id": 3}))

    ended = await generated(engine, prompt="Hi", max_tokens=200, temperature=1.0, ignore_eos=False)
    ignored = await generated(engine, prompt="Hi", max_tokens=200, temperature=1.0, ignore_eos=True)

    assert (ended.finish_reason, len(ended.token_stamps) < 200) == ("eos", True)
    assert (ignored.finish_reason, len(ignored.token_stamps)) == ("length", 200)


async def test_a_stop_string_ends_the_text_before_it(engine: ChildEngine) -> None:
    await loaded(engine)
    whole = await generated(engine, max_tokens=40, ignore_eos=False)
    stop = whole.output[20:24]
    expected = whole.output[: whole.output.index(stop)]

    stopped = await generated(engine, max_tokens=40, ignore_eos=False, stop=("no such string", stop))

    assert (stopped.finish_reason, stopped.output) == ("stop", expected)
    assert len(stopped.token_stamps) < len(whole.token_stamps)


async def test_the_news_of_a_generation_add_up_to_its_text(engine: ChildEngine) -> None:
    await loaded(engine)
    news: list[Tokens] = []

    one = await engine.generate(generate(max_tokens=500 - 20), news.append)

    assert "".join(tokens.text for tokens in news) == one.output
    assert news[-1].count == len(one.token_stamps) == 480


async def test_a_prompt_beyond_the_context_is_refused_with_its_numbers(engine: ChildEngine) -> None:
    await loaded(engine)

    with pytest.raises(Refusal) as raised:
        await generated(engine, prompt="sky " * 300, max_tokens=300)

    assert raised.value.code == "prompt_too_long"
    details = raised.value.details
    assert (details["prompt_tokens"] > 512, details["max_tokens"], details["context_length"]) == (True, 300, 512)
    assert all(str(number) in raised.value.reason for number in details.values())
    assert (await generated(engine)).finish_reason == "length"


@pytest.mark.parametrize("weights", ["pretrained", "auto"])
async def test_pretrained_weights_come_from_the_cache(engine: ChildEngine, weights: str) -> None:
    resolved, load = await loaded(engine, model=PRETRAINED, weights=weights)

    assert (resolved.weights, resolved.revision, resolved.dtype) == ("pretrained", REVISION, "float32")
    assert load.facts["tokenizer"] != "built in code"
    assert (await generated(engine)).output


@pytest.mark.parametrize(
    ("model", "weights", "reason"),
    [
        (replace(PRETRAINED, repository="tests/none"), "pretrained", "the cache of this machine does not have it"),
        (replace(PRETRAINED, repository="tests/half"), "pretrained", "the cache of this machine does not have it"),
        (replace(PRETRAINED, repository="tests/none"), "auto", "register the model with an architecture"),
        (replace(PRETRAINED, repository="tests/none"), "random", "register the model with an architecture"),
        (replace(PRETRAINED, repository="consumers/inference"), "pretrained", "does not have it"),
        (replace(PRETRAINED, repository="../../etc"), "pretrained", "no name of a repository"),
        (replace(PRETRAINED, revision="../../../etc"), "pretrained", "no revision of a repository"),
        (a_model(architecture={"model_type": "nonesuch"}), "random", "cannot be built"),
        (a_model(architecture={**CHATTY, "n_head": 3}), "random", "cannot be built"),
    ],
)
async def test_a_model_that_cannot_be_had_is_refused_with_the_reason(
    engine: ChildEngine, model: ModelDefinition, weights: str, reason: str
) -> None:
    refused = await refusal(engine, model=model, weights=weights)

    assert refused.code == "model_unavailable"
    assert reason in refused.reason


async def test_auto_falls_back_to_random_weights_and_says_why(engine: ChildEngine) -> None:
    resolved, _ = await loaded(engine, weights="auto")

    assert (resolved.weights, resolved.revision) == ("random", None)
    assert "HF_HUB_OFFLINE is set" in (resolved.random_because or "")


async def test_a_model_without_a_repository_has_random_weights_only(engine: ChildEngine) -> None:
    model = a_model(model_id="builtin/tiny", repository="")
    sentence = "builtin/tiny has no pretrained weights: it exists with random ones only"

    resolved, _ = await loaded(engine, model=model, weights="auto")
    refused = await refusal(engine, model=model, weights="pretrained")

    assert (resolved.weights, resolved.random_because) == ("random", sentence)
    assert (refused.code, refused.reason) == ("model_unavailable", f"the pretrained weights cannot be had: {sentence}")


async def test_the_measured_process_is_the_first_to_go_where_memory_ends(engine: ChildEngine) -> None:
    await engine.ready()

    assert _oom_score_adj(engine.pid) == "1000"


async def test_a_process_that_ends_before_it_is_ready_cannot_start(
    measured_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is broken')")

    async with open_engine({**measured_environment, "PYTHONPATH": str(tmp_path)}) as broken:
        with pytest.raises(CannotStart, match="libtorch is broken"):
            await broken.ready()


async def test_a_gpu_that_is_not_there_can_be_wished_but_not_demanded(engine: ChildEngine) -> None:
    resolved, _ = await loaded(engine, device="auto", use_gpu=True)

    assert (resolved.device, "no GPU" in (resolved.cpu_because or "")) == ("cpu", True)
    assert (await refusal(engine, device="cuda")).code == "gpu_unavailable"


async def test_fields_that_name_code_to_fetch_are_not_followed(engine: ChildEngine) -> None:
    architecture = {**CHATTY, "auto_map": {"AutoModelForCausalLM": "evil--repo.Model"}, "_attn_implementation": "x/y"}
    architecture["experts_implementation"] = "evil/experts"

    _, load = await loaded(engine, model=a_model(architecture=architecture))

    assert load.facts["attn_implementation"] == "sdpa"


async def test_a_process_killed_in_mid_run_is_named_and_replaced(engine: ChildEngine) -> None:
    await loaded(engine, model=a_model(architecture=LONG_WINDED))
    running = asyncio.create_task(engine.generate(generate(max_tokens=16_000), _kill(engine.pid)))
    before = engine.pid

    with pytest.raises(ChildDied) as raised:
        await running

    assert raised.value.exit_code == -signal.SIGKILL
    await engine.ready()
    assert engine.pid != before
    assert not _lives(before)


def _kill(pid: int) -> Any:
    return lambda tokens: os.kill(pid, signal.SIGKILL)


async def test_a_cancelled_call_kills_its_process_before_the_next_one_starts(engine: ChildEngine) -> None:
    await loaded(engine, model=a_model(architecture=LONG_WINDED))
    before = engine.pid

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await generated(engine, max_tokens=16_000)
    await engine.start()

    assert (engine.pid != before, _lives(before)) == (True, False)


async def test_an_error_that_nobody_named_is_told_without_its_trace(engine: ChildEngine) -> None:
    await loaded(engine)
    before = engine.pid

    with pytest.raises(Refusal) as raised:
        await generated(engine, top_p=-1.0)
    await engine.ready()

    assert (raised.value.code, "\n" in raised.value.reason) == ("engine_error", False)
    assert raised.value.reason.startswith("ValueError: ")
    assert engine.pid != before


async def test_a_model_that_does_not_fit_is_out_of_memory(engine: ChildEngine) -> None:
    refused = await refusal(engine, model=a_model(architecture={**CHATTY, "n_embd": 2**21}))

    assert refused.code == "out_of_memory"


def _oom_score_adj(pid: int) -> str:
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
