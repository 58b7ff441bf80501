# SPDX-License-Identifier: Apache-2.0

"""Guided decoding on PyTorch, with the LLM's own tokenizer (§4.6)."""

from __future__ import annotations

import dataclasses
import functools
import json as json_module

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher
from transformers import AutoTokenizer


@dataclasses.dataclass(slots=True, kw_only=True)
class GuidedDecodingParams:
    """One guide of a request."""

    json: object = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool = False
    structural_tag: str | None = None

    def source(self) -> str:
        """Return the grammar in llguidance's form.

        Raises:
            ValueError: Not exactly one guide is given.
        """
        given = [each.name for each in dataclasses.fields(self) if self._has(each.name)]
        if len(given) != 1:
            raise ValueError(
                f"Only one guide can be used for a request, but got {len(given)}."
            )
        if given == ["regex"]:
            return LLMatcher.grammar_from_regex(self.regex)
        if given == ["grammar"]:
            return LLMatcher.grammar_from_lark(self.grammar)
        schema = {"type": "object"} if self.json_object else self.json
        if not isinstance(schema, str):
            schema = json_module.dumps(schema)
        return LLMatcher.grammar_from_json_schema(schema)

    def _has(self, name: str) -> bool:
        return bool(getattr(self, name))


@functools.cache
def vocabulary(path: str, size: int):
    """Return the tokens of a tokenizer, which ends at its one EOS token (§10)."""
    return llguidance.hf.from_tokenizer(AutoTokenizer.from_pretrained(path), size)


class Guide:
    """The state of one request in its grammar.

    Raises:
        ValueError: The grammar cannot be compiled.
    """

    def __init__(self, params: GuidedDecodingParams, tokens):
        self._matcher = LLMatcher(tokens, params.source())
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def mask(self, logits):
        """Ban the ids that cannot follow."""
        octets = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(octets, bitorder="little")[: len(logits)]
        logits[torch.from_numpy(allowed == 0)] = -torch.inf

    def accept(self, token_id: int):
        self._matcher.consume_token(token_id)
