# SPDX-License-Identifier: Apache-2.0

"""Sampling fields through the generator, on a random model with a bare tokenizer."""

from __future__ import annotations

import pytest
import torch
from embedded.byte_tokenizer import OwnTokenizer, save_model
from transformers import AutoModelForCausalLM

from unillm import Generator, SamplingParams
from unillm.errors import InvalidParameterError, UnsupportedParameterError

PROMPT = "the quick brown fox jumps over the lazy dog and the cat"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generator(path):
    with Generator(path, max_num_seqs=4, max_logprobs=-1) as generator:
        yield generator


def params(**fields) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 40, "seed": 7, "ignore_eos": True, **fields})


# --------------------------------------------------------------------- allowed tokens


def test_only_allowed_ids_are_generated(generator):
    [output] = generator.generate(PROMPT, params(allowed_token_ids=[50, 60, 70]))

    assert set(output.token_ids) <= {50, 60, 70}


def test_a_large_bias_decides_the_token(generator):
    [more] = generator.generate(PROMPT, params(logit_bias={65: 100}))
    [less] = generator.generate(PROMPT, params(logit_bias={65: -100}))

    assert set(more.token_ids) == {65}
    assert 65 not in less.token_ids


def test_bad_words_are_never_generated_as_their_usual_tokens(generator):
    free = params(allowed_token_ids=generator_ids(generator, "xyz "), max_tokens=300)
    [before] = generator.generate(PROMPT, free)
    words = ["xy", "zz", "y"]
    strict = params(
        allowed_token_ids=free.allowed_token_ids, bad_words=words, max_tokens=300
    )

    [output] = generator.generate(PROMPT, strict)

    assert all(word in before.text for word in words)
    assert not any(word in output.text for word in words)
    assert len(output.text) == 300


def test_both_forms_of_a_bad_word_are_banned_where_their_lengths_differ(generator):
    encode = generator.get_tokenizer().encode
    plain, spaced = encode("the").ids, encode(" the").ids
    assert (len(plain), len(spaced)) == (1, 2)
    fields = {"allowed_token_ids": [*plain, *spaced], "max_tokens": 300}

    [before] = generator.generate(PROMPT, params(**fields))
    [output] = generator.generate(PROMPT, params(**fields, bad_words=["the"]))

    for form in (plain, spaced):
        assert occurs(form, before.token_ids)
        assert not occurs(form, output.token_ids)


def test_a_word_that_begins_in_the_prompt_may_end_in_the_completion(generator):
    x, y = generator_ids(generator, "xy")

    [output] = generator.generate(
        [x], params(allowed_token_ids=[x, y], bad_words=["xy"], logit_bias={y: 100})
    )

    assert output.token_ids[0] == y
    assert not occurs([x, y], output.token_ids)


def occurs(part, ids):
    return any(ids[at : at + len(part)] == part for at in range(len(ids)))


def generator_ids(generator, text: str) -> list[int]:
    encode = generator.get_tokenizer().encode
    return [encode(character).ids[0] for character in text]


@pytest.mark.parametrize(
    "fields", [{"logit_bias": {9999: 1.0}}, {"allowed_token_ids": [3, 9999]}]
)
def test_ids_out_of_vocabulary_are_refused(generator, fields):
    with pytest.raises(InvalidParameterError, match=r"9999, out of vocabulary"):
        generator.submit(PROMPT, params(**fields))


# ------------------------------------------------------------------------ no text


def test_without_detokenizing_there_are_ids_and_no_text(generator):
    [plain] = generator.generate(PROMPT, params(logprobs=2))

    [output] = generator.generate(PROMPT, params(logprobs=2, detokenize=False))

    assert output.text == ""
    assert output.token_ids == plain.token_ids
    entries = [each for at in output.outputs[0].logprobs for each in at.values()]
    assert {each.decoded_token for each in entries} == {None}


def test_byte_pieces_have_no_spaces_between_special_tokens(generator):
    shown = {"skip_special_tokens": False, "allowed_token_ids": [0, 1]}

    [output] = generator.generate(
        PROMPT, params(**shown, spaces_between_special_tokens=False)
    )

    assert output.text.replace("<pad>", "").replace("<bos>", "") == ""


def test_spaces_that_cannot_be_left_out_are_refused(path):
    with (
        Generator(path, tokenizer=OwnTokenizer()) as generator,
        pytest.raises(UnsupportedParameterError, match="spaces_between"),
    ):
        generator.submit("a", params(spaces_between_special_tokens=False))


# ------------------------------------------------------------------ prompt logprobs


@pytest.mark.parametrize("budget", [None, 7], ids=["whole", "in chunks"])
@pytest.mark.parametrize("count", [0, 3, -1])
def test_prompt_logprobs_are_the_raw_log_softmax(path, budget, count):
    model = AutoModelForCausalLM.from_pretrained(path)
    prompts = [PROMPT, "a", "the other one", PROMPT * 3]
    asked = [params(prompt_logprobs=count, temperature=0.3, max_tokens=4)] * 4
    with Generator(
        path, max_num_seqs=3, max_logprobs=-1, max_num_batched_tokens=budget
    ) as generator:
        outputs = generator.generate(
            [*prompts, "quiet"], [*asked, params(max_tokens=3)]
        )

    assert outputs.pop().prompt_logprobs is None
    for output in outputs:
        ids = output.prompt_token_ids
        with torch.inference_mode():
            expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        entries_at = output.prompt_logprobs
        assert len(entries_at) == len(ids)
        assert entries_at[0] is None
        for place, (token_id, entries) in enumerate(
            zip(ids[1:], entries_at[1:], strict=True)
        ):
            row = expected[place]
            size = len(row) if count == -1 else count
            best = set(row.topk(size).indices.tolist())
            assert next(iter(entries)) == token_id
            assert set(entries) == best | {token_id}
            for each, entry in entries.items():
                assert entry.logprob == pytest.approx(row[each].item(), abs=1e-4)
                # Rounding may swap neighbours.
                better, as_good = row > row[each] + 1e-4, row >= row[each] - 1e-4
                assert better.sum() < entry.rank <= as_good.sum()


def test_several_completions_share_the_prompt_logprobs(generator):
    [output] = generator.generate(PROMPT, params(n=3, prompt_logprobs=1))

    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)


def test_max_logprobs_limits_prompt_logprobs(path):
    with (
        Generator(path, max_logprobs=5) as generator,
        pytest.raises(InvalidParameterError, match="prompt_logprobs=6"),
    ):
        generator.submit(PROMPT, params(prompt_logprobs=6))
