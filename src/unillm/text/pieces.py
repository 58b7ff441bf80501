# SPDX-License-Identifier: Apache-2.0

"""The bytes that a token adds to a text, whatever stands before it.

Most tokenizers decode token by token: in the middle of a text an id always adds the
same bytes. With a table of those bytes, decoding is exact, incremental and cheap. The
description of a tokenizer's decoder says whether it is of that kind; `rust_pieces`
returns `None` for any other.

Bytes that are not UTF-8 become U+FFFD, in one of two ways. Byte-level decoders see the
whole text and write one U+FFFD for each maximal part of a character, as Python's
``errors="replace"`` does. Byte fallback (``<0xE3>``) writes one for each byte.

Hugging Face's own byte fallback loses more: one invalid byte turns the whole run of
byte tokens into U+FFFD, the complete characters of the run too. A decoder that streams
cannot see that before the run ends, so `Pieces` keep complete characters, as
sentencepiece does.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

EACH_BYTE = "unillm.each_byte"
"""Codec error handler that writes one U+FFFD for each invalid byte."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LOCAL_STEPS = {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _replace_each_byte)


class Pieces(dict[int, bytes]):
    """The bytes of each id in the middle of a text, computed at the first look-up.

    Attributes:
        errors: The codec error handler that shows invalid bytes as the tokenizer does.
        start_matters: Whether an id at the very start of a text may add fewer bytes
            (a leading space is dropped), which only `Tokenizer.decode` knows.
        plain: The texts of ids that were met between two whole characters and ended so,
            without U+FFFD at the end: they add the same text at each such place.
    """

    def __init__(
        self, piece_of: Callable[[int], bytes], *, errors: str, start_matters: bool
    ) -> None:
        super().__init__()
        self._piece_of = piece_of
        self.errors = errors
        self.start_matters = start_matters
        self.plain: dict[int, str] = {}

    def __missing__(self, token_id: int) -> bytes:
        piece = self[token_id] = self._piece_of(token_id)
        return piece

    def text(self, token_ids: Iterable[int]) -> str:
        """Return the text of *token_ids* in the middle of a text."""
        joined = b"".join([self[token_id] for token_id in token_ids])
        return joined.decode("utf-8", self.errors)


def rust_pieces(backend: Any) -> Pieces | None:
    """Return the pieces of a `tokenizers.Tokenizer`.

    Returns:
        `None` where the bytes of a token depend on its neighbours (the ``</w>`` of
        `BPEDecoder`, CTC), and for an unknown decoder.
    """
    steps = _decoder_steps(backend.decoder)
    names = [step["type"] for step in steps]
    if names == ["ByteLevel"]:
        return Pieces(
            functools.partial(_byte_level_piece, backend),
            errors="replace",
            start_matters=False,
        )
    if not _is_local(steps):
        return None
    has_bytes = "ByteFallback" in names
    return _anchored_pieces(
        decode=functools.partial(backend.decode, skip_special_tokens=False),
        own_bytes=lambda token_id: (
            _byte_of(backend.id_to_token(token_id)) if has_bytes else None
        ),
        candidates=range(backend.get_vocab_size(with_added_tokens=True)),
    )


def sentencepiece_pieces(processor: Any) -> Pieces | None:
    """Return the pieces of a `SentencePieceProcessor`.

    Control pieces, which the library decodes to nothing, add their own name; a caller
    that hides them skips their ids.

    Returns:
        `None` for a model without a piece that shows text.
    """
    size = processor.vocab_size()

    def own_bytes(token_id: int) -> bytes | None:
        if token_id >= size:  # a row that pads the model's vocabulary
            return b""
        if processor.is_control(token_id):
            return bytes(processor.id_to_piece(token_id), "utf-8")
        if processor.is_byte(token_id):
            return _byte_of(processor.id_to_piece(token_id))
        return None

    return _anchored_pieces(
        decode=processor.decode, own_bytes=own_bytes, candidates=range(size)
    )


def tekken_pieces(wrapped: Any) -> Pieces | None:
    """Return the pieces of a `MistralCommonBackend` of transformers.

    Returns:
        `None` for any other tokenizer, and for one that has no ``tekken.json``.
    """
    own = getattr(wrapped, "tokenizer", None)
    tekken = getattr(getattr(own, "instruct_tokenizer", None), "tokenizer", None)
    if type(tekken).__name__ != "Tekkenizer":
        return None
    assert tekken is not None

    def piece_of(token_id: int) -> bytes:
        if tekken.is_special(token_id):
            return str(tekken.id_to_piece(token_id)).encode()
        return bytes(tekken.id_to_byte_piece(token_id))

    return Pieces(piece_of, errors="replace", start_matters=False)


def _decoder_steps(decoder: Any) -> list[dict[str, Any]]:
    """Return the steps of a Rust decoder; `None` has none, and joins with spaces."""
    if decoder is None:
        return []
    state = json.loads(decoder.__getstate__())
    steps: list[dict[str, Any]] = state.get("decoders", [state])
    return steps


def _is_local(steps: list[dict[str, Any]]) -> bool:
    """Whether each step looks at one token alone, except at the start of the text."""
    fused = False
    for step in steps:
        if fused and not (step["type"] == "Strip" and step["stop"] == 0):
            return False
        if step["type"] not in _LOCAL_STEPS:
            return False
        fused = fused or step["type"] == "Fuse"
    return True


def _byte_of(token: str | None) -> bytes | None:
    """Return the byte of a byte fallback token; `None` for any other token."""
    match = _BYTE_TOKEN.fullmatch(token or "")
    return bytes.fromhex(match[1]) if match else None


def _anchored_pieces(
    *,
    decode: Callable[[list[int]], str],
    own_bytes: Callable[[int], bytes | None],
    candidates: Iterable[int],
) -> Pieces | None:
    """Return pieces that decode an id behind an anchor, an id that shows some text.

    Args:
        decode: Must skip ids outside the vocabulary.
        own_bytes: Returns the bytes of an id that needs no decoding, or `None`.
        candidates: Ids; the first that shows text becomes the anchor.
    """
    for anchor in candidates:
        base = decode([anchor])
        if base.strip() and REPLACEMENT not in base and own_bytes(anchor) is None:
            break
    else:
        return None

    def piece_of(token_id: int) -> bytes:
        own = own_bytes(token_id)
        if own is not None:
            return own
        return decode([anchor, token_id])[len(base) :].encode()

    return Pieces(piece_of, errors=EACH_BYTE, start_matters=True)


def _byte_level_piece(backend: Any, token_id: int) -> bytes:
    token = backend.id_to_token(token_id)
    if token is None:
        return b""
    table = _byte_level_alphabet()
    try:
        return bytes([table[character] for character in token])
    except KeyError:  # an added token with a character outside the alphabet
        return bytes(token, "utf-8")


@functools.cache
def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character of GPT-2's printable alphabet.

    References:
        ``bytes_to_unicode`` in openai/gpt-2, ``src/encoder.py``: printable bytes stand
        for themselves, the others are numbered from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update((chr(0x100 + index), byte) for index, byte in enumerate(others))
    return alphabet
