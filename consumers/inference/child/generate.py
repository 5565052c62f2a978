"""One generation, with a stamp for every token. Between two tokens nothing is written, sent or logged."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from time import perf_counter_ns

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from consumers.inference.child.load import LoadedModel, Refusal
from consumers.inference.child.protocol import GREEDY_BELOW, Generate, Generated, Tokens
from events.benchmark import FinishReason

TELL_INTERVAL_S = 0.5
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
Send = Callable[[Tokens], None]


class TokenStream:
    """What `generate` streams to: the prompt first, then each token, when it is on the host."""

    def __init__(self) -> None:
        self._arrived: list[tuple[int, torch.Tensor]] = []

    def put(self, value: torch.Tensor) -> None:
        self._arrived.append((perf_counter_ns(), value))

    def end(self) -> None:
        """Nothing to flush."""

    @property
    def stamps(self) -> tuple[int, ...]:
        return tuple(stamp for stamp, _ in self._arrived[1:])

    def ids(self, start: int = 0) -> list[int]:
        """The tokens from number `start` on."""
        return [int(value) for _, value in self._arrived[1 + start :]]


class Transcript:
    """The text of tokens that come bit by bit. A character whose bytes are not all here yet waits for the rest.

    Decodes the last two bits together and takes what that adds: the text of a token depends on the one before.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        self._told = 0
        self.text = ""

    def add(self, ids: list[int]) -> str:
        self._ids += ids
        before = decode(self._tokenizer, self._ids[self._context : self._told])
        after = decode(self._tokenizer, self._ids[self._context :])
        if after.endswith(REPLACEMENT) or len(after) <= len(before):
            return ""
        self._context, self._told = self._told, len(self._ids)
        self.text += after[len(before) :]
        return after[len(before) :]


class StopStrings(StoppingCriteria):
    """Ends a generation when its last tokens spell one of the strings, wherever in a token that begins or ends.

    It decodes no more tokens than the longest string has bytes, and a few for what a decoder does to the first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._prompt_tokens = prompt_tokens
        self._reach = max((len(text.encode()) for text in stop), default=0) + 8
        self.met = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        generated = input_ids[0, max(self._prompt_tokens, input_ids.shape[1] - self._reach) :]
        tail = decode(self._tokenizer, generated.tolist())
        self.met = any(text in tail for text in self._stop)
        return torch.full((input_ids.shape[0],), self.met, device=input_ids.device)


def generate(loaded: LoadedModel, asked: Generate, send: Send) -> Generated:
    """Tokenization lies between `started` and the first token. Raises Refusal with prompt_too_long."""
    config = generation_config(loaded, asked)
    stream = TokenStream()
    _reset_peaks(loaded.choice.device)
    torch.manual_seed(asked.seed)
    with telling(stream, loaded.tokenizer, send) as transcript:
        started = perf_counter_ns()
        prompt = loaded.tokenizer.encode(asked.prompt)
        tokenized = perf_counter_ns()
        check_length(len(prompt), asked.max_tokens, loaded.context_length)
        stop = StopStrings(loaded.tokenizer, asked.stop, len(prompt))
        ids = torch.tensor([prompt], device=loaded.choice.device)
        loaded.module.generate(  # type: ignore[operator]  # typed as a tensor or a module by torch's __getattr__
            inputs=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stop] if asked.stop else []),
            streamer=stream,
        )
        finished = perf_counter_ns()
    generated = stream.ids()
    output, replaced = printable(cut(decode(loaded.tokenizer, generated), asked.stop if stop.met else ()))
    send(Tokens(count=len(generated), text=_rest(output, transcript.text)))
    allocated, reserved = _peaks(loaded.choice.device)
    return Generated(
        prompt_tokens=len(prompt),
        started=started,
        tokenized=tokenized,
        token_stamps=stream.stamps,
        finished=finished,
        finish_reason=finish_reason(generated, loaded.eos_ids, stop.met),
        output=output,
        replaced=replaced,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
    )


def generation_config(loaded: LoadedModel, asked: Generate) -> GenerationConfig:
    """Everything said here, nothing left to the model's own defaults. `top_k` 0 is off.

    A fixed length keeps the end-of-sequence tokens from being chosen; stop strings still end it.
    """
    sampled = asked.temperature >= GREEDY_BELOW
    chosen = {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k} if sampled else {}
    return GenerationConfig(
        do_sample=sampled,
        **chosen,
        max_new_tokens=asked.max_tokens,
        min_new_tokens=asked.max_tokens if asked.ignore_eos else None,
        eos_token_id=list(loaded.eos_ids) or None,
        pad_token_id=loaded.eos_ids[0] if loaded.eos_ids else 0,
        use_cache=True,
    )


@contextmanager
def telling(stream: TokenStream, tokenizer: PreTrainedTokenizerBase, send: Send) -> Iterator[Transcript]:
    """Meanwhile tell what has been generated, from a thread of its own that never holds generation up."""
    transcript = Transcript(tokenizer)
    over = Event()

    def tell() -> None:
        told = 0
        while not over.wait(TELL_INTERVAL_S):
            if ids := stream.ids(told):
                told += len(ids)
                send(Tokens(count=told, text=printable(transcript.add(ids))[0]))

    teller = Thread(target=tell, name="teller", daemon=True)
    teller.start()
    try:
        yield transcript
    finally:
        over.set()
        teller.join()


def check_length(prompt_tokens: int, max_tokens: int, context_length: int | None) -> None:
    if prompt_tokens == 0:
        raise Refusal("engine_error", "the model's tokenizer makes no token of this prompt")
    if context_length is not None and prompt_tokens + max_tokens > context_length:
        raise Refusal(
            "prompt_too_long",
            f"the prompt has {prompt_tokens} tokens; with max_tokens {max_tokens} that is more than "
            f"the {context_length} tokens of the model's context",
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            context_length=context_length,
        )


def finish_reason(generated: list[int], eos_ids: tuple[int, ...], stopped: bool) -> FinishReason:
    if stopped:
        return "stop"
    return "eos" if generated and generated[-1] in eos_ids else "length"


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the strings."""
    return text[: min((text.index(string) for string in stop if string in text), default=len(text))]


def printable(text: str) -> tuple[str, bool]:
    """The text without what a database refuses, NUL and lone surrogates, and whether there was any."""
    clean = text.replace("\0", REPLACEMENT).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return clean, clean != text


def _rest(output: str, told: str) -> str:
    clean, _ = printable(told)
    return output[len(clean) :] if output.startswith(clean) else ""


def _reset_peaks(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peaks(device: str) -> tuple[int | None, int | None]:
    if device != "cuda":
        return None, None
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
