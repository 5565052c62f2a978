"""A tokenizer for random weights, built with no download: a printable piece for every id of any vocabulary."""

from collections.abc import Iterator
from itertools import count, islice, product
from string import ascii_letters, digits, punctuation

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNKNOWN = "?"
WORD_START = "▁"
PRINTABLE = ascii_letters + digits + punctuation
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"  # commonest first, so that small vocabularies fit English


def build_tokenizer(vocabulary_size: int) -> PreTrainedTokenizerFast:
    """All scores are equal, so a text becomes the fewest pieces that spell it; about three letters make one.

    What has no piece of its own becomes its bytes, which decode to their names: a raw byte could print as nothing.
    """
    model = models.Unigram([(piece, -1.0) for piece in islice(pieces(), vocabulary_size)], unk_id=0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def pieces() -> Iterator[str]:
    """Without end and without repeats: characters, bytes, then ever longer strings of letters."""
    yield UNKNOWN
    yield from (character for character in PRINTABLE if character != UNKNOWN)
    yield from (WORD_START + character for character in PRINTABLE)
    yield from (f"<0x{byte:02X}>" for byte in range(256))
    for length in count(2):
        for letters in product(LETTERS, repeat=length):
            word = "".join(letters)
            yield WORD_START + word
            yield word
