# SPDX-License-Identifier: Apache-2.0

"""Which tokenizers vLLM's llguidance can use, and whether it spells texts with them.

vLLM reads its own tokenizer for structured outputs. llguidance takes byte-level
decoders and those with byte fallback, and spells a text that must follow by the
tokenizer's own encoder, which may change the text. Imports vLLM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_PROBES = ("{", '{"a', "yes", " yes", "Yes", "(", "7", "e\u0301", "ﬁ", "\n")
"""Texts that encoders change: by a space in front, in capitals, by normal forms."""


@dataclass(frozen=True)
class VllmGuidance:
    """llguidance in vLLM, for one tokenizer."""

    refusal: str = ""
    """Why there are no structured outputs; empty if there are."""
    spells_exactly: bool = True
    """Whether the ids with which it spells a text add that text."""


LONGEST_ROW = 2000
"""Alternatives of a rule that llguidance follows at the same time. It is its default,
which vLLM leaves as it is; a longer rule fails in the middle of a text."""

_LITERAL = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')
_RULE = re.compile(r"^[?!]?[a-z_]\w*[^:\n]*:(?:.*(?:\n[ \t|].*)*)", re.MULTILINE)
"""A rule in Lark's notation; terminals, in capitals, are one alternative."""


def longest_rule(lark: str) -> int:
    """Return the largest number of alternatives that a rule of a grammar has."""
    bare = _LITERAL.sub("_", lark)
    return max((1 + rule.count("|") for rule in _RULE.findall(bare)), default=1)


def guidance_of(tokenizer: Any, vocab_size: int) -> VllmGuidance:
    """Return what llguidance makes of vLLM's tokenizer."""
    import llguidance.hf

    try:
        if hasattr(tokenizer, "llg_tokenizer"):  # of mistral-common
            own = tokenizer.llg_tokenizer
        else:
            own = llguidance.hf.from_tokenizer(
                tokenizer, max(vocab_size, len(tokenizer))
            )
    except Exception as error:  # noqa: BLE001 - llguidance documents none
        reason = " ".join(str(error).split())[:200]
        return VllmGuidance(
            refusal=f"vLLM's llguidance cannot use the tokenizer ({reason}). Pass "
            "tokenizer= with the path of a byte-level one or one with byte fallback, "
            "or use the embedded backend"
        )
    return VllmGuidance(
        spells_exactly=all(
            own.decode_bytes(own.tokenize_str(text)) == text.encode()
            for text in _PROBES
        )
    )
