# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from unillm import EngineConfig, SamplingParams
from unillm.engines.base import EngineLimits
from unillm.runtime.requests import RequestMaker
from unillm.text.eos import resolve_eos
from unillm.text.loading import ModelText, load_tokenizer

END = 0


class Letters:
    """A caller's tokenizer: a token for each character, and an EOS token."""

    eos_token_id = END

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i != END)


@pytest.fixture
def maker_for():
    """Return a function that makes a `RequestMaker` without an engine."""

    def maker_for(*, on_cancel=lambda _: None, max_model_len=1000, **config):
        tokenizer = load_tokenizer(Letters())
        names = {"capabilities", "backend", "backends", "clock"} & config.keys()
        own = {name: config.pop(name) for name in names}
        text = ModelText(
            tokenizer=tokenizer,
            eos=resolve_eos(tokenizer),
            model_config={},
            default_params=SamplingParams(temperature=0.5),
        )
        limits = EngineLimits(
            max_model_len=max_model_len, max_num_seqs=4, vocab_size=0x110000
        )
        config = EngineConfig(model="letters", path=Path(), **config)
        return RequestMaker(config, text, limits, on_cancel=on_cancel, **own)

    return maker_for
