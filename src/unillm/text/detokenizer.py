# SPDX-License-Identifier: Apache-2.0

"""New token ids to text, one at a time; text that was returned never changes.

The text of a completion is what `Tokenizer.decode` adds behind the prompt, so a leading
space is there exactly when it belongs there. The detokenizer holds back:

- the bytes of an incomplete character. A character that begins in the prompt belongs
  to the completion;
- U+FFFD at the end of the text, the sign of bytes that are not a character;
- the longest end of the text that may begin a stop string, until the next token
  decides.

When the completion ends there, both are left out of the text, as vLLM does: what the
model did not finish is not text. The token ids keep them. Before further text, bytes
that are not a character are U+FFFD.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from .pieces import REPLACEMENT, Pieces

if TYPE_CHECKING:
    from ..params import SamplingParams
    from .tokenizer import Tokenizer

_LONGEST_CHARACTER = 4
"""Length in bytes of UTF-8; an incomplete character has at most three."""

_CONTEXT = 8
"""Tokens at the end of the prompt that usually show what precedes the completion."""


def decode_token(tokenizer: Tokenizer, token_id: int) -> str:
    """Return the text of one id in the middle of a text.

    It keeps a leading space, shows special tokens, and has U+FFFD for bytes of an
    incomplete character.
    """
    if tokenizer.pieces is not None:
        return tokenizer.pieces.text((token_id,))
    return tokenizer.decode((token_id,), skip_special_tokens=False)


class Detokenizer:
    """The text of one completion while its ids arrive.

    Attributes:
        matched_stop: The stop string that ended the completion; `None` until then.
            `push` may not be called after it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
    ) -> None:
        self._off = not params.detokenize
        self._skip = (
            tokenizer.special_token_ids
            if params.skip_special_tokens
            else frozenset[int]()
        )
        prompt = _Visible(prompt_token_ids, self._skip)
        pieces = tokenizer.pieces
        self._text: _PieceText | _WindowText = (
            _WindowText(tokenizer, prompt, params.skip_special_tokens)
            if pieces is None
            else _PieceText(tokenizer, pieces, prompt)
        )
        self._special = tokenizer.special_token_ids
        self._plain: dict[int, str] = {} if pieces is None else pieces.plain
        self._num_broken = 0
        """U+FFFD at the end of the text, which count when text follows."""
        self._whole = self._text.whole()
        """Whether the text ends with a whole character, and `_plain` holds."""
        self._stops = _StopStrings(params.stop) if params.stop else None
        self._min_tokens = params.min_tokens
        self._keep_stop = params.include_stop_str_in_output
        self._num_tokens = 0
        self.matched_stop: str | None = None

    def push(self, token_id: int) -> str:
        """Add the next id and return the text that is final now.

        When the id completes a stop string, sets `matched_stop` and returns the text
        before the string, or up to its end under `include_stop_str_in_output`.
        """
        assert self.matched_stop is None, "the completion has ended"
        if self._off:
            return ""
        new = self._plain.get(token_id) if self._whole else None
        if new is None:
            new = self._push_any(token_id)
        if self._stops is None:
            return new
        self._num_tokens += 1
        if not new:
            return ""
        may_end = self._num_tokens > self._min_tokens
        final, self.matched_stop = self._stops.push(
            new, may_end=may_end, keep=self._keep_stop
        )
        return final

    def _push_any(self, token_id: int) -> str:
        """Return the text that an id of any kind makes final."""
        if token_id in self._skip:
            return ""
        new = self._text.push(token_id)
        text = new.rstrip(REPLACEMENT)
        broken = len(new) - len(text)
        if text:
            text = REPLACEMENT * self._num_broken + text
            self._num_broken = broken
        else:
            self._num_broken += broken
        whole = self._text.whole() and not self._num_broken
        if whole and self._whole and token_id not in self._special:
            self._plain[token_id] = text
        self._whole = whole
        return text

    def finish(self, *, stop_token_id: int | None = None) -> str:
        """End the completion and return the rest of its text.

        Args:
            stop_token_id: The id that ended the completion, if one did. It adds text
                only under `include_stop_str_in_output`, and then may complete a stop
                string and set `matched_stop`.
        """
        text = ""
        if stop_token_id is not None and self._keep_stop:
            text = self.push(stop_token_id)
        if self._stops is not None and self.matched_stop is None:
            text += self._stops.finish()
        return text


class _Visible:
    """The ids of a prompt that show in its text."""

    def __init__(self, token_ids: Sequence[int], skip: frozenset[int]) -> None:
        self._token_ids = token_ids
        self._skip = skip

    def last(self, count: int | None = _CONTEXT) -> list[int]:
        """Return the last *count* ids, or all for `None`, in their order."""
        visible = (i for i in reversed(self._token_ids) if i not in self._skip)
        return list(islice(visible, count))[::-1]


class _PieceText:
    """Text of a tokenizer whose ids always add the same bytes; exact for any ids."""

    def __init__(self, tokenizer: Tokenizer, pieces: Pieces, prompt: _Visible) -> None:
        self._tokenizer = tokenizer
        self._pieces = pieces
        self._open = b""
        """The bytes of an incomplete character."""
        # The prompt may end in the middle of a character; its own text is not needed.
        ending = b"".join([pieces[token_id] for token_id in prompt.last()])
        self._push_bytes(ending[-_LONGEST_CHARACTER:])
        self._start = self._invisible_start(prompt)

    def whole(self) -> bool:
        """Whether ids add their own bytes behind a whole character."""
        return not self._open and self._start is None

    def _invisible_start(self, prompt: _Visible) -> list[int] | None:
        """Return the last ids of the prompt if it shows no text at all.

        Then the completion begins the text, where the decoder drops a leading space.
        """
        if not self._pieces.start_matters:
            return None
        for count in (_CONTEXT, None):
            ids = prompt.last(count)
            if self._tokenizer.decode(ids, skip_special_tokens=False):
                return None
        return ids[-_CONTEXT:]

    def push(self, token_id: int) -> str:
        if self._start is not None:
            return self._push_start(self._start, token_id)
        return self._push_bytes(self._pieces[token_id])

    def _push_bytes(self, new: bytes) -> str:
        data = self._open + new
        text, used = codecs.utf_8_decode(data, self._pieces.errors, False)
        self._open = data[used:]
        if _is_surrogate(self._open):
            text += self._open.decode("utf-8", self._pieces.errors)
            self._open = b""
        return text

    def _push_start(self, start: list[int], token_id: int) -> str:
        piece = self._pieces[token_id]
        try:
            piece.decode()
        except UnicodeDecodeError:  # a byte of a character: no space to drop
            self._start = None
            return self._push_bytes(piece)
        text = self._tokenizer.decode([*start, token_id], skip_special_tokens=False)
        if text:
            self._start = None
        elif len(start) < _CONTEXT:  # more invisible ids would change nothing
            start.append(token_id)
        return text


def _is_surrogate(data: bytes) -> bool:
    """Whether these are two bytes behind which Python waits for a third.

    Python waits for the sake of ``surrogatepass``; no character of UTF-8 begins so.
    """
    return len(data) == 2 and data[0] == 0xED and data[1] >= 0xA0


class _WindowText:
    """Text of any tokenizer: the difference that a token makes to the last few tokens.

    Exact where the text of a token depends only on its neighbours. A U+FFFD at the end
    may still become a character, so up to three are held back.
    """

    _LONGEST = 16
    """Tokens in the window before it is cut, which bounds the time of a token."""
    _KEPT = 6
    """Tokens that stay: those of an incomplete character, and some before it."""
    _HELD = _LONGEST_CHARACTER - 1

    def __init__(
        self, tokenizer: Tokenizer, prompt: _Visible, skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._ids = prompt.last()
        if not self._shows_text(self._ids):
            self._ids = prompt.last(None)
        self._shown = self._end_of_final(self._decode(self._ids))

    def whole(self) -> bool:
        """Return false: what an id adds depends on those around it."""
        return False

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode(self._ids)
        end = max(self._shown, self._end_of_final(text))
        final = text[self._shown : end]
        self._shown = end
        if len(self._ids) > self._LONGEST:
            final += self._cut(text)
        return final

    def _cut(self, text: str) -> str:
        """Shorten the window, and return the text that the cut makes final."""
        kept = self._ids[-self._KEPT :]
        if not self._shows_text(kept):
            # Some decoders drop spaces at the start: a visible token must come first.
            visible = (i for i in self._ids if self._shows_text([i]))
            kept = [*islice(visible, 1), *kept]
        tail = self._decode(kept)
        end = self._end_of_final(tail)
        # A U+FFFD before the kept tokens cannot change any more.
        final = text[self._shown : len(text) - (len(tail) - end)]
        self._ids, self._shown = kept, end
        return final

    def _end_of_final(self, text: str) -> int:
        held = len(text) - len(text.rstrip(REPLACEMENT))
        return len(text) - min(held, self._HELD)

    def _shows_text(self, ids: list[int]) -> bool:
        return bool(self._decode(ids).strip())

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=self._skip_special_tokens
        )


class _StopStrings:
    """Finds stop strings in a growing text, and holds back a possible beginning."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops))
        firsts = "".join(sorted({re.escape(stop[0]) for stop in stops}))
        self._find_first = re.compile(f"[{firsts}]").search
        self._held = ""

    def push(self, new: str, *, may_end: bool, keep: bool) -> tuple[str, str | None]:
        """Add text; return the final part of it and the stop string that it completes.

        Args:
            new: The text; not empty.
            may_end: Whether a stop string that *new* completes counts.
            keep: Whether the final part includes the stop string.
        """
        if not self._held and not self._find_first(new):
            return new, None
        text = self._held + new
        match = self._earliest(text, len(self._held)) if may_end else None
        if match is not None:
            start, stop = match
            self._held = ""
            return text[: start + len(stop) if keep else start], stop
        final = len(text) - self._open_end(text)
        self._held = text[final:]
        return text[:final], None

    def finish(self) -> str:
        """Return the text that was held back, at the end of the completion."""
        held, self._held = self._held, ""
        return held

    def _earliest(self, text: str, old: int) -> tuple[int, str] | None:
        """Return the stop string that ends first behind *old*, and where it starts.

        Of several that end there, the first of the list counts.
        """
        found: tuple[int, str] | None = None
        first_end = len(text) + 1
        for stop in self._stops:
            # A match that ends in the old text came before `min_tokens`.
            start = text.find(stop, max(0, old - len(stop) + 1))
            if start >= 0 and start + len(stop) < first_end:
                first_end = start + len(stop)
                found = start, stop
        return found

    def _open_end(self, text: str) -> int:
        """Return the length of the longest end of *text* that begins a stop string."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            end = text[start:]
            if any(
                stop.startswith(end) and len(stop) > len(end) for stop in self._stops
            ):
                return len(end)
        return 0
