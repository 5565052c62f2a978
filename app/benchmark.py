"""What a benchmark may be asked to be: the schema of the request, and its rules."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from app.web.problems import FieldError
from app.web.reading import Form
from events.benchmark import BenchmarkSpec, Device, ModelDefinition, Task, Weights

LONGEST_PROMPT = 65_536
MOST_TOKENS = 200_000

PLANNED = (
    "attn_implementation",
    "batch_size",
    "compile",
    "concurrency",
    "dataset_id",
    "do_sample",
    "dtype",
    "length_penalty",
    "load_in_4bit",
    "load_in_8bit",
    "messages",
    "min_p",
    "min_tokens",
    "num_beams",
    "quantization",
    "repetition_penalty",
    "request_rate",
    "revision",
    "threads",
    "typical_p",
)


class BenchmarkRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A benchmark. Only `model_id` and `prompt` are required.

    `iterations` and `warmup_iterations` together, times `max_tokens`, may be 200 000 at most.
    """

    model_id: Annotated[
        str, Meta(min_length=1, max_length=200, description="A model of the catalogue.", examples=["gpt2"])
    ]
    prompt: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=LONGEST_PROMPT,
            description="At most 64 KiB of UTF-8, and not blank.",
            examples=["Why is the sky blue?"],
        ),
    ]
    task: Task = "text-generation"
    max_tokens: Annotated[int, Meta(ge=1, le=8192, description="New tokens for each iteration at most.")] = 50
    temperature: Annotated[float, Meta(ge=0, le=2, description="0 is greedy.")] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.9
    use_gpu: Annotated[
        bool, Meta(description="Use a GPU if there is one; with none it runs on the CPU and says so.")
    ] = True
    top_k: Annotated[int, Meta(ge=0, le=1000, description="0 is off.")] = 0
    iterations: Annotated[int, Meta(ge=1, le=1000, description="Measured generations.")] = 1
    warmup_iterations: Annotated[
        int, Meta(ge=0, le=100, description="Run and recorded first, and left out of every figure.")
    ] = 1
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="The same seed gives the same text.")] | None = None
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(max_length=8, description="Generation ends where one of these appears."),
    ] = ()
    ignore_eos: Annotated[bool, Meta(description="Generate exactly `max_tokens`.")] = False
    device: Annotated[Device, Meta(description="`cuda` fails where there is no GPU; `auto` follows `use_gpu`.")] = (
        "auto"
    )
    weights: Annotated[
        Weights, Meta(description="`auto`: pretrained if they can be had, else random, with a warning.")
    ] = "auto"
    sample_interval_ms: Annotated[int, Meta(ge=50, le=5000, description="Between two hardware samples.")] = 100
    timeout_s: Annotated[float, Meta(ge=1, le=1500, description="From the moment a worker takes the job.")] = 600.0
    labels: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]],
        Meta(max_length=16, description="To find jobs by, in lists."),
    ] = {}


EXAMPLE = {
    "model_id": "gpt2",
    "prompt": "Why is the sky blue?",
    "task": "text-generation",
    "max_tokens": 50,
    "temperature": 0.7,
    "top_p": 0.9,
    "use_gpu": True,
}


def benchmark_rule(valid: Mapping[str, Any]) -> Iterator[FieldError]:
    if "prompt" in valid and (problem := prompt_problem(valid["prompt"])):
        yield FieldError("prompt", problem)
    if valid.get("device") == "cuda" and valid.get("use_gpu") is False:
        yield FieldError("device", "is 'cuda', and use_gpu is false: these contradict each other")
    yield from _budget(valid)


def prompt_problem(prompt: str) -> str | None:
    if not prompt.strip():
        return "must not be blank"
    if len(prompt) * 4 > LONGEST_PROMPT and (size := len(prompt.encode())) > LONGEST_PROMPT:
        return f"has {size} bytes of UTF-8, and at most {LONGEST_PROMPT} are allowed"
    return None


def _budget(valid: Mapping[str, Any]) -> Iterator[FieldError]:
    names = ("iterations", "warmup_iterations", "max_tokens")
    if all(name in valid for name in names):
        iterations, warmup, max_tokens = (valid[name] for name in names)
        tokens = (iterations + warmup) * max_tokens
        if tokens > MOST_TOKENS:
            message = (
                f"(iterations + warmup_iterations) × max_tokens is {tokens}, and at most {MOST_TOKENS} are allowed"
            )
            yield from (FieldError(name, message) for name in names)


FORM = Form(BenchmarkRequest, benchmark_rule, planned=PLANNED)


def spec_of(request: BenchmarkRequest, model: ModelDefinition) -> BenchmarkSpec:
    """What a worker is told: the model whole, so that it needs to ask nobody."""
    return BenchmarkSpec(
        model=model,
        prompt=request.prompt,
        task=request.task,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        use_gpu=request.use_gpu,
        top_k=request.top_k,
        iterations=request.iterations,
        warmup_iterations=request.warmup_iterations,
        seed=request.seed,
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        device=request.device,
        weights=request.weights,
        sample_interval_ms=request.sample_interval_ms,
        timeout_s=request.timeout_s,
        labels=request.labels,
    )
