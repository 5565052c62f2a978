"""The parts of a generation that need no model."""

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models

from consumers.inference.child.generate import Transcript, cut, finish_reason, printable
from consumers.inference.child.load import choose_device, choose_dtype
from consumers.inference.child.tokenizer import build_tokenizer

ENGLISH = "Explain in one paragraph why the sky is blue, and what Rayleigh scattering means."


class ByteTokenizer:
    """Every id is a byte, so that characters come in parts."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer(models.BPE(vocab={f"<0x{i:02X}>": i for i in range(256)}, merges=[]))
        self._tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return str(self._tokenizer.decode(ids))


@pytest.mark.parametrize("size", [20, 100, 1_000, 50_257])
def test_every_id_of_a_vocabulary_has_a_piece_that_prints(size: int) -> None:
    tokenizer = build_tokenizer(size)
    ids = range(size) if size <= 1_000 else random.Random(0).sample(range(size), 1_000)

    texts = {i: str(tokenizer.decode([i])) for i in ids}

    assert [i for i, text in texts.items() if not text.strip() or not text.isprintable()] == []
    assert len(tokenizer) == size


@pytest.mark.parametrize(("text", "low", "high"), [(ENGLISH, 15, 45), ("\n" * 40, 40, 40), ("汉字" * 20, 100, 130)])
def test_a_text_becomes_a_sensible_number_of_tokens(text: str, low: int, high: int) -> None:
    assert low <= len(build_tokenizer(50_257).encode(text)) <= high


def test_the_same_text_comes_back() -> None:
    tokenizer = build_tokenizer(50_257)

    assert tokenizer.decode(tokenizer.encode(ENGLISH)) == ENGLISH


def test_half_a_character_waits_for_the_rest() -> None:
    transcript = Transcript(_typed(ByteTokenizer()))
    blue = list("blå €".encode())

    told = [transcript.add([i]) for i in blue]

    assert "".join(told) == transcript.text == "blå €"
    assert [text for text in told if text] == ["b", "l", "å", " ", "€"]


def _typed(tokenizer: Any) -> Any:
    return tokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blue", ("blue", False)),
        ("b\0lue", ("b\ufffdlue", True)),
        ("b\ud800lue", ("b\ufffdlue", True)),
        ("sky \U0001f600", ("sky \U0001f600", False)),
    ],
)
def test_what_a_database_refuses_is_replaced(text: str, expected: tuple[str, bool]) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [((), "one two three"), (("two",), "one "), (("three", "e t"), "on"), (("four",), "one two three")],
)
def test_text_is_cut_before_the_first_stop_string(stop: tuple[str, ...], expected: str) -> None:
    assert cut("one two three", stop) == expected


@pytest.mark.parametrize(
    ("generated", "stopped", "expected"), [([1, 2], False, "length"), ([1, 9], False, "eos"), ([1, 9], True, "stop")]
)
def test_why_a_text_ends(generated: list[int], stopped: bool, expected: str) -> None:
    assert finish_reason(generated, (9,), stopped) == expected


@pytest.mark.parametrize(
    ("device", "use_gpu", "has_gpu", "expected", "warns"),
    [
        ("auto", True, True, "cuda", False),
        ("auto", True, False, "cpu", True),
        ("auto", False, True, "cpu", False),
        ("cpu", True, True, "cpu", False),
        ("cuda", False, True, "cuda", False),
    ],
)
def test_where_a_model_runs(device: Any, use_gpu: bool, has_gpu: bool, expected: str, warns: bool) -> None:
    chosen, why = choose_device(device, use_gpu, has_gpu)

    assert (chosen, why is not None) == (expected, warns)


@pytest.mark.parametrize(
    ("config", "device", "dtype"),
    [
        ({"dtype": "bfloat16"}, "cuda", "bfloat16"),
        ({"torch_dtype": "float16"}, "cuda", "float16"),
        ({"dtype": "bfloat16"}, "cpu", "float32"),
        ({"dtype": "int4_of_somebody"}, "cuda", "float32"),
        ({}, "cuda", "float32"),
    ],
)
def test_which_dtype_a_model_is_loaded_in(config: dict[str, Any], device: Any, dtype: str) -> None:
    assert choose_dtype(config, device) == dtype
