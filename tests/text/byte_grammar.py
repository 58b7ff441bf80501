# SPDX-License-Identifier: Apache-2.0

"""Whether a structure matches a text, by a tokenizer with one token a byte."""

from __future__ import annotations

from text.conftest import Bytes

from unillm import StructuredOutputs
from unillm.text.grammar import GrammarCompiler
from unillm.text.pieces import Pieces
from unillm.text.tokenizer import ForeignTokenizer

END = 256


def byte_compiler() -> GrammarCompiler:
    tokenizer = ForeignTokenizer(Bytes())
    tokenizer.pieces = Pieces(
        lambda token_id: bytes([token_id]), errors="replace", start_matters=False
    )
    return GrammarCompiler(tokenizer, vocab_size=END + 1, eos_ids=[END])


def matches(compiler: GrammarCompiler, text: str, **wanted: object) -> bool:
    """Return whether the whole text matches."""
    state = compiler.compile(StructuredOutputs(**wanted)).start()
    for token_id in [*text.encode(), END]:
        if not state.allowed()[token_id // 8] >> (token_id % 8) & 1:
            return False
        state.accept(token_id)
    assert not state.error
    return True
