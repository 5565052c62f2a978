"""What the worker and its measured process say to each other: MessagePack, each message behind its length.

All stamps are `time.perf_counter_ns()`, which both processes read from the same clock of the kernel.
"""

import struct
from typing import Any, Literal

import msgspec
from msgspec import Struct

from events.benchmark import Device, FinishReason, ModelDefinition, Weights
from events.messages import FailureCode

HEADER = struct.Struct(">I")
GREEDY_BELOW = 1e-5  # a lower temperature divides the logits out of float32


class Command(Struct, frozen=True, kw_only=True, tag_field="command"):
    """What the worker asks. Each is answered by exactly one Answer."""


class Resolve(Command, frozen=True, kw_only=True):
    """Find out, quickly and without loading anything, what this model would be run with."""

    model: ModelDefinition
    weights: Weights
    device: Device
    use_gpu: bool


class Load(Command, frozen=True, kw_only=True):
    """Make ready what was resolved last. What is loaded already stays."""


class Generate(Command, frozen=True, kw_only=True):
    """One generation. The same `seed` gives the same text; `ignore_eos` makes it exactly `max_tokens` long."""

    prompt: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    ignore_eos: bool


class Message(Struct, frozen=True, kw_only=True, tag_field="message"):
    """What the measured process says."""


class Ready(Message, frozen=True, kw_only=True):
    """The first message: everything is imported."""


class Resolved(Message, frozen=True, kw_only=True):
    """`random_because` says why an `auto` model gets random weights, `cpu_because` why a GPU was wished in vain."""

    device: Literal["cpu", "cuda"]
    weights: Literal["pretrained", "random"]
    revision: str | None
    dtype: str
    random_because: str | None = None
    cpu_because: str | None = None


class Loaded(Message, frozen=True, kw_only=True):
    """`facts` are for the environment of a result; `gpu_uuid` is how NVML knows the device."""

    load_ms: float
    warm: bool
    facts: dict[str, Any]
    gpu_uuid: str | None = None


class Tokens(Message, frozen=True, kw_only=True):
    """How far this generation is: no answer, only news, at most twice a second."""

    count: int
    text: str


class Generated(Message, frozen=True, kw_only=True):
    """One generation and its stamps, one of `token_stamps` a generated token."""

    prompt_tokens: int
    started: int
    tokenized: int
    token_stamps: tuple[int, ...]
    finished: int
    finish_reason: FinishReason
    output: str
    replaced: bool
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None


class Refused(Message, frozen=True, kw_only=True):
    """It cannot be done, for a reason that has a name."""

    code: FailureCode
    reason: str
    details: dict[str, Any] = {}


AnyCommand = Resolve | Load | Generate
Answer = Ready | Resolved | Loaded | Generated | Refused
AnyMessage = Answer | Tokens

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[AnyCommand] = msgspec.msgpack.Decoder(AnyCommand)
_messages: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def frame(message: AnyCommand | AnyMessage) -> bytes:
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def read_command(body: bytes) -> AnyCommand:
    return _commands.decode(body)


def read_message(body: bytes) -> AnyMessage:
    return _messages.decode(body)
