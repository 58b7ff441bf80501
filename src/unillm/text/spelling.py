# SPDX-License-Identifier: Apache-2.0

"""The token ids that a model writes for a text in the middle of another text.

Many tokenizers change a text before they split it: they put a space in front of it
(Llama 1 and 2, Mistral, ``add_prefix_space``), lower it, or drop what they do not know.
The ids of ``encode(text)`` then add another text. A spelling is proved by the bytes of
its pieces: together they are exactly the text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .pieces import Pieces

_ANCHORS = ("\n", "(", "a")
"""Texts before the wanted one, so that it no longer stands at the start. They are of
three kinds, because a tokenizer may join an anchor with a text of its own kind."""


class Spelling:
    """Spells texts with the pieces of one tokenizer. May be used from several threads.

    Args:
        encode: Returns the ids of a text, without special tokens around it.
        pieces: The bytes of each id.
        special_token_ids: Ids that no text has.
        vocab_size: One more than the highest id.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        pieces: Pieces,
        *,
        special_token_ids: frozenset[int],
        vocab_size: int,
    ) -> None:
        self._encode = encode
        self._pieces = pieces
        self._special = special_token_ids
        self._vocab_size = vocab_size

    @functools.cached_property
    def complete(self) -> bool:
        """Whether every text has a spelling: each byte of UTF-8 is a piece."""
        bytes_of_utf8 = {*range(0xC0), *range(0xC2, 0xF5)}
        return all(bytes([byte]) in self._ids for byte in bytes_of_utf8)

    def ids(
        self, text: str, *, below: int | None = None, special: bool = False
    ) -> list[int] | None:
        """Return ids whose pieces join to *text*; `None` if there are none.

        They are those of the tokenizer where it can be brought to spell the text, and
        as few as possible otherwise.

        Args:
            text: Of any length.
            below: Take only ids below it, the rows of a model; all for `None`.
            special: Take the name of a special token in the text for that token.
        """
        wanted = text.encode()
        limit = self._vocab_size if below is None else below
        for anchor in ("", *_ANCHORS):
            head = self._encode(anchor) if anchor else []
            ids = self._encode(anchor + text)
            tail = ids[len(head) :]
            if (
                ids[: len(head)] == head
                and max(tail, default=0) < limit
                and (special or self._special.isdisjoint(tail))
                and b"".join([self._pieces[token_id] for token_id in tail]) == wanted
            ):
                return tail
        return self._fewest(wanted, limit)

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        """The id of each piece; of several with the same bytes, the last one.

        Byte fallback comes first in a vocabulary, and is not used for what has a
        token of its own.
        """
        return {
            self._pieces[token_id]: token_id
            for token_id in range(self._vocab_size)
            if token_id not in self._special
        }

    @functools.cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(piece) for piece in self._ids if piece})

    def _fewest(self, wanted: bytes, limit: int) -> list[int] | None:
        """Return the shortest list of ids below *limit* whose pieces join to *wanted*.

        Of several ids with the same bytes it knows one.
        """
        # For each end, the start of the last piece in the shortest list up to there.
        counts: list[int | None] = [0]
        starts = [0]
        for end in range(1, len(wanted) + 1):
            options = [
                (count, end - length)
                for length in self._lengths
                if length <= end
                and (count := counts[end - length]) is not None
                and self._ids.get(wanted[end - length : end], limit) < limit
            ]
            count, start = min(options, default=(None, 0))
            counts.append(None if count is None else count + 1)
            starts.append(start)
        if counts[-1] is None:
            return None
        ids: list[int] = []
        end = len(wanted)
        while end:
            ids.append(self._ids[wanted[starts[end] : end]])
            end = starts[end]
        return ids[::-1]
