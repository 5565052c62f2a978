"""What a benchmark is asked to be. A request event carries its spec whole, so that a worker needs to ask nobody."""

from typing import Any, Literal

from msgspec import Struct, field

Task = Literal["text-generation"]
Device = Literal["auto", "cpu", "cuda"]
Weights = Literal["auto", "pretrained", "random"]
Pool = Literal["cpu", "gpu"]
Phase = Literal["loading", "warmup", "measuring"]
FinishReason = Literal["length", "eos", "stop"]


class ModelDefinition(Struct, frozen=True, kw_only=True):
    """A model of the catalogue.

    `architecture` is the transformers configuration, `model_type` included, that random weights are built from;
    without it only pretrained weights can be had. `repository` and `revision` say where on the hub those lie.
    """

    model_id: str
    repository: str
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    description: str = ""


class DatasetRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: str
    reference: str | None = None


class DatasetDefinition(Struct, frozen=True, kw_only=True):
    dataset_id: str
    rows: tuple[DatasetRow, ...]
    description: str = ""


class BenchmarkSpec(Struct, frozen=True, kw_only=True):
    """A validated benchmark. `top_k` 0 is off; `timeout_s` counts from the moment a worker takes the job."""

    model: ModelDefinition
    prompt: str
    task: Task
    max_tokens: int
    temperature: float
    top_p: float
    use_gpu: bool
    top_k: int
    iterations: int
    warmup_iterations: int
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    device: Device
    weights: Weights
    sample_interval_ms: int
    timeout_s: float
    labels: dict[str, str] = field(default_factory=dict)
