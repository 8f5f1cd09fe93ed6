"""The byte-level tokenizer: a token's id is its byte, then bos, eos and pad."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<bos>", "<eos>", "<pad>")


def byte_characters() -> list[str]:
    """Return the character that ByteLevel writes for each byte, in byte order.

    Printable bytes stand for themselves; the others get the next free code points from
    256 on, which is the alphabet of GPT-2.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in printable]
    shifted = {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [shifted.get(byte, chr(byte)) for byte in range(256)]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of 259 tokens without merges; it adds no special tokens."""
    names = [*byte_characters(), *SPECIAL]
    vocabulary = {name: place for place, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    bos, eos, pad = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
