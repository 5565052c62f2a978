"""One measured process for all tests that need a real one, with a cache of models that these tests made."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumers.inference.engine import ChildEngine, open_engine

REPOSITORY = "tests/tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one repository, as a download leaves it: a snapshot with tokenizer and safetensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from consumers.inference.child.tokenizer import build_tokenizer

    cache = tmp_path_factory.mktemp("hub")
    repository = cache / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    config = AutoConfig.for_model("gpt2", n_layer=1, n_head=2, n_embd=32, n_positions=64, vocab_size=500)
    config.bos_token_id = config.eos_token_id = 499
    AutoModelForCausalLM.from_config(config).save_pretrained(snapshot)
    build_tokenizer(500).save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    _copy_half(repository, cache / "models--tests--half")
    return cache


def _copy_half(repository: Path, half: Path) -> None:
    """What a download that broke off leaves: an index, and not all the shards that it names."""
    snapshot = half / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (half / "refs").mkdir()
    (half / "refs" / "main").write_text(REVISION)
    (snapshot / "config.json").write_text((repository / "snapshots" / REVISION / "config.json").read_text())
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def measured_environment(hub_cache: Path) -> dict[str, str]:
    """Nothing from outside, and one thread: two that wait for each other crawl where other tests run beside them."""
    alone = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **alone, "HF_HUB_CACHE": str(hub_cache)}


@pytest.fixture(scope="session")
async def engine(measured_environment: dict[str, str]) -> AsyncIterator[ChildEngine]:
    async with open_engine(measured_environment) as engine:
        yield engine
