"""From a model's definition to a model in memory: first what it would be, then the thing itself."""

import re
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal, NamedTuple

import torch
import transformers
from msgspec import Struct
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from consumers.inference.child.hub import Hub, NotToBeHad, Snapshot
from consumers.inference.child.protocol import Loaded, Resolve, Resolved
from consumers.inference.child.tokenizer import build_tokenizer
from events.benchmark import Device, ModelDefinition
from events.messages import FailureCode

SEED_OF_RANDOM_WEIGHTS = 0
DTYPES = {"float32", "float16", "bfloat16"}
CODE_IN_DISGUISE = re.compile(r"_.*|auto_map|(attn|experts)_implementation|quantization_config|trust_remote_code")


class Refusal(Exception):
    """It cannot be done, for a reason that has a name."""

    def __init__(self, code: FailureCode, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.details = details


class Choice(Struct, frozen=True, kw_only=True):
    """What a model is loaded as. The same choice again finds it warm."""

    model: ModelDefinition
    device: Literal["cpu", "cuda"]
    dtype: str
    snapshot: Snapshot | None


class LoadedModel(NamedTuple):
    """`eos_ids` and `context_length` are what the model itself says; its generation defaults are put aside."""

    choice: Choice
    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    context_length: int | None


class Shelf:
    """Holds one loaded model, and the choice of which to load next."""

    def __init__(self) -> None:
        self._hub = Hub()
        self._choice: Choice | None = None
        self._loaded: LoadedModel | None = None

    @property
    def loaded(self) -> LoadedModel:
        if self._loaded is None:
            raise RuntimeError("asked to generate before a model was loaded")
        return self._loaded

    def resolve(self, asked: Resolve) -> Resolved:
        device, cpu_because = choose_device(asked.device, asked.use_gpu, torch.cuda.is_available())
        snapshot, random_because = self._choose_weights(asked)
        config = snapshot.config if snapshot else asked.model.architecture or {}
        self._choice = Choice(model=asked.model, device=device, dtype=choose_dtype(config, device), snapshot=snapshot)
        return Resolved(
            device=device,
            weights="pretrained" if snapshot else "random",
            revision=snapshot.revision if snapshot else None,
            dtype=self._choice.dtype,
            random_because=random_because,
            cpu_because=cpu_because,
        )

    def load(self) -> Loaded:
        """`load_ms` is 0 where the choice is what stands here already."""
        if self._choice is None:
            raise RuntimeError("asked to load before anything was resolved")
        began = perf_counter_ns()
        warm = self._loaded is not None and self._loaded.choice == self._choice
        if not warm:
            self._loaded = None  # two models need not fit into memory at once
            self._loaded = load(self._choice, self._hub)
        load_ms = 0.0 if warm else (perf_counter_ns() - began) / 1e6
        return Loaded(load_ms=load_ms, warm=warm, facts=facts(self.loaded), gpu_uuid=gpu_uuid(self._choice.device))

    def _choose_weights(self, asked: Resolve) -> tuple[Snapshot | None, str | None]:
        if asked.weights == "random":
            check_architecture(asked.model, "random weights were asked for")
            return None, None
        try:
            return self._hub.find(asked.model), None
        except NotToBeHad as error:
            if asked.weights == "pretrained":
                raise Refusal("model_unavailable", f"the pretrained weights cannot be had: {error}") from error
            check_architecture(asked.model, str(error))
            return None, str(error)


def check_architecture(model: ModelDefinition, why: str) -> None:
    if model.architecture is None:
        remedy = "register the model with an architecture, or make its repository available"
        raise Refusal(
            "model_unavailable",
            f"{why}, and {model.model_id} has no architecture to build with random weights: {remedy}",
        )


def choose_device(device: Device, use_gpu: bool, has_gpu: bool) -> tuple[Literal["cpu", "cuda"], str | None]:
    """The device, and why it is the CPU where a GPU was wished. Raises Refusal where a GPU was demanded."""
    if device == "cuda" and not has_gpu:
        raise Refusal("gpu_unavailable", "device 'cuda' was asked for, and this worker has no GPU; use 'auto' or 'cpu'")
    if device == "cuda" or (device == "auto" and use_gpu and has_gpu):
        return "cuda", None
    if device == "auto" and use_gpu:
        return "cpu", "use_gpu was asked for, and this worker has no GPU: it ran on the CPU"
    return "cpu", None


def choose_dtype(config: dict[str, Any], device: Literal["cpu", "cuda"]) -> str:
    """On a GPU what the checkpoint is stored in; on a CPU float32, the one that all of them compute natively."""
    stored = config.get("dtype") or config.get("torch_dtype")
    return stored if device == "cuda" and stored in DTYPES else "float32"


def load(choice: Choice, hub: Hub) -> LoadedModel:
    """Raises Refusal with model_unavailable where the definition or its files do not make a model."""
    try:
        dtype = getattr(torch, choice.dtype)
        if choice.snapshot:
            module, tokenizer = _pretrained(hub.fetch(choice.snapshot), dtype)
        else:
            module, tokenizer = _random(choice.model.architecture or {}, dtype)
    except NotToBeHad as error:
        raise Refusal("model_unavailable", str(error)) from error
    except (AttributeError, ImportError, LookupError, OSError, SafetensorError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:500]
        reason = f"{choice.model.model_id} cannot be built: {type(error).__name__}: {told}"
        raise Refusal("model_unavailable", reason) from error
    module = module.eval().to(choice.device)
    text_config = module.config.get_text_config()
    eos_ids = _eos_ids(module, tokenizer, text_config.vocab_size)
    module.generation_config = GenerationConfig()
    return LoadedModel(choice, module, tokenizer, eos_ids, getattr(text_config, "max_position_embeddings", None))


def _pretrained(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    return module, tokenizer


def _random(architecture: dict[str, Any], dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Always the same weights for the same architecture, so that a seed gives the same text."""
    config: PreTrainedConfig = AutoConfig.for_model(**_harmless(architecture))
    torch.manual_seed(SEED_OF_RANDOM_WEIGHTS)
    module = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return module, build_tokenizer(config.get_text_config().vocab_size)


def _harmless(architecture: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that name code to fetch and run."""
    return {name: value for name, value in architecture.items() if not CODE_IN_DISGUISE.fullmatch(name)}


def _eos_ids(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> tuple[int, ...]:
    said_by = (module.generation_config, module.config.get_text_config(), tokenizer)
    said = (getattr(one, "eos_token_id", None) for one in said_by)
    eos: int | list[int] = next((ids for ids in said if ids is not None), [])
    return tuple(i for i in (eos if isinstance(eos, list) else [eos]) if 0 <= i < vocabulary_size)


def facts(loaded: LoadedModel) -> dict[str, Any]:
    """What the environment of a result says of the model and of what runs it."""
    return {
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "torch_threads": torch.get_num_threads(),
        "torch_interop_threads": torch.get_num_interop_threads(),
        "dtype": loaded.choice.dtype,
        "attn_implementation": loaded.module.config._attn_implementation,
        "parameters": loaded.module.num_parameters(),
        "vocabulary_size": loaded.module.config.get_text_config().vocab_size,
        "context_length": loaded.context_length,
        "tokenizer": type(loaded.tokenizer).__name__ if loaded.choice.snapshot else "built in code",
        "architecture": loaded.module.config.model_type,
    }


def gpu_uuid(device: Literal["cpu", "cuda"]) -> str | None:
    """How NVML knows the device that torch uses; torch and NVML count devices differently."""
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}" if device == "cuda" else None
