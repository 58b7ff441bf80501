# SPDX-License-Identifier: Apache-2.0

"""Texts of completions, and of tokens in `LLM`, are those of real vLLM."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from unillm import CompletionOutput, Logprob, RequestOutput, SamplingParams
from unillm.backend import find_model
from unillm.text.detokenizer import Detokenizer
from unillm.text.loading import load_tokenizer
from unillm.vllm_api.token_texts import TokenTexts


def byte_level():
    return AutoTokenizer.from_pretrained(find_model("unillm/tiny"))


def byte_fallback(*, metaspace):
    """Return a tokenizer of Llama's kind: pieces with spaces first, and bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁▁", "▁the", "▁▁x", "town", "é", "▁日", "本"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first")]
        )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken(name) for name in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS = {
    "byte level": byte_level,
    "byte fallback": lambda: byte_fallback(metaspace=False),
    "byte fallback behind Metaspace": lambda: byte_fallback(metaspace=True),
}


def vllm_texts(tokenizer, positions):
    """Return vLLM's text of each id; the first id of a position is the sampled one."""
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.outputs import LogprobsLists

    processor = LogprobsProcessor(
        tokenizer=tokenizer,
        logprobs=[],
        prompt_logprobs=None,
        cumulative_logprob=0.0,
        num_logprobs=len(positions[0]) - 1,
        num_prompt_logprobs=None,
    )
    for ids in positions:
        processor._update_sample_logprobs(  # noqa: SLF001
            LogprobsLists(np.array([ids]), np.zeros((1, len(ids))), np.array([1]), None)
        )
    return [
        {token_id: entry.decoded_token for token_id, entry in entries.items()}
        for entries in processor.logprobs
    ]


def our_texts(tokenizer, positions):
    entries = [{i: Logprob(0.0, 1, "?") for i in ids} for ids in positions]
    completion = CompletionOutput(
        index=0, text="", token_ids=[ids[0] for ids in positions], logprobs=entries
    )
    output = RequestOutput(
        request_id="0",
        prompt=None,
        prompt_token_ids=[1],
        outputs=[completion],
        finished=True,
    )
    TokenTexts(tokenizer).write([output])
    return [{i: entry.decoded_token for i, entry in at.items()} for at in entries]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_text_of_each_token_is_that_of_vllm(name):
    tokenizer = TOKENIZERS[name]()
    numbers = random.Random(0)
    texts = ["日本 🎉 naïve", "the town", " x é", "🎊🎉"]

    for _ in range(300):
        sampled = [
            token_id
            for _ in range(numbers.randint(1, 3))
            for token_id in (
                tokenizer.encode(numbers.choice(texts), add_special_tokens=False)
                if numbers.random() < 0.7
                else [numbers.randrange(len(tokenizer)) for _ in range(3)]
            )
        ]
        positions = [
            [i, *(numbers.randrange(len(tokenizer)) for _ in range(2))] for i in sampled
        ]

        assert our_texts(tokenizer, positions) == vllm_texts(tokenizer, positions)


TEXTS = ["日本語 🎉🎊 naïve", "the town 🙂 x", "é"]


def vllm_text(tokenizer, prompt, ids):
    from vllm import SamplingParams as VllmParams
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    request = SimpleNamespace(
        request_id="0", sampling_params=VllmParams(), prompt_token_ids=prompt
    )
    detokenizer = FastIncrementalDetokenizer(tokenizer, request)
    for token_id in ids:
        detokenizer.update([token_id], stop_terminated=False)
    return detokenizer.get_next_output_text(finished=True, delta=False)


def our_text(tokenizer, prompt, ids):
    detokenizer = Detokenizer(
        load_tokenizer(tokenizer), prompt_token_ids=prompt, params=SamplingParams()
    )
    return "".join(map(detokenizer.push, ids)) + detokenizer.finish()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_that_is_cut_anywhere_is_that_of_vllm(name):
    tokenizer = TOKENIZERS[name]()
    prompt = tokenizer.encode("the", add_special_tokens=False)

    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        for count in range(len(ids) + 1):
            assert our_text(tokenizer, prompt, ids[:count]) == vllm_text(
                tokenizer, prompt, ids[:count]
            )
