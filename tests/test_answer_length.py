# SPDX-License-Identifier: Apache-2.0

"""How long an answer is where the caller does not say it, and the warning of a cut."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings

import attrs
import pytest

from unillm import LLM, Generator, SamplingParams, SamplingParamsWarning, run_batch
from unillm.model.find import find_model
from unillm.testing.backends import ScriptedBackend, plugged
from unillm.testing.scripted import ScriptedEngine

CONTEXT = 40
PROMPT = [65] * 10
ENDS_AFTER = 25
CHAT = [{"role": "user", "content": "a"}]


def endless(request, n):
    return 65


def ending(request, n):
    return 65 if n < ENDS_AFTER else next(iter(request.stop_token_ids), 65)


def engine_of(script):
    return lambda config: ScriptedEngine(script, max_model_len=CONTEXT, vocab_size=512)


@pytest.fixture(scope="module", autouse=True)
def _backends():
    with (
        plugged(ScriptedBackend(engine_of(endless), name="endless")),
        plugged(ScriptedBackend(engine_of(ending), name="ending")),
    ):
        yield


def model_in(folder, settings):
    shutil.copytree(find_model("unillm/tiny"), folder, dirs_exist_ok=True)
    content = json.dumps({"eos_token_id": [506], **settings})
    (folder / "generation_config.json").write_text(content)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The bundled model without sampling defaults of its own."""
    return model_in(tmp_path_factory.mktemp("bare"), {})


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """The bundled model with a length of its own."""
    own = {"max_new_tokens": 7, "top_k": 3}
    return model_in(tmp_path_factory.mktemp("limited"), own)


def length_of(output):
    return len(output.token_ids), output.finish_reason


@pytest.mark.parametrize("params", [None, SamplingParams(), SamplingParams(top_k=2)])
def test_an_answer_goes_on_to_its_own_end(bare, params):
    with Generator(bare, backend="ending") as generator:
        [output] = generator.generate(PROMPT, params)

    assert length_of(output) == (ENDS_AFTER + 1, "stop")


@pytest.mark.parametrize("params", [None, SamplingParams(), SamplingParams(top_k=2)])
def test_an_answer_without_an_end_goes_on_to_that_of_the_context(bare, params):
    with (
        Generator(bare, backend="endless") as generator,
        pytest.warns(SamplingParamsWarning, match="after 30 new tokens.*context of 40"),
    ):
        [output] = generator.generate(PROMPT, params)

    assert length_of(output) == (30, "length")
    assert output.fitted_max_tokens is None  # nothing was asked for


def calls_of(generator):
    """Return every call that gives an answer."""

    async def read(stream):
        return [delta async for delta in stream]

    async def wait(call):
        return await call

    return {
        "generate": lambda: generator.generate(PROMPT),
        "chat": lambda: generator.chat(CHAT),
        "agenerate": lambda: asyncio.run(wait(generator.agenerate(PROMPT))),
        "achat": lambda: asyncio.run(wait(generator.achat(CHAT))),
        "stream": lambda: list(generator.stream(PROMPT)),
        "chat_stream": lambda: list(generator.chat_stream(CHAT)),
        "astream": lambda: asyncio.run(read(generator.astream(PROMPT))),
        "achat_stream": lambda: asyncio.run(read(generator.achat_stream(CHAT))),
        "generate_iter": lambda: list(generator.generate_iter([PROMPT])),
        "as_completed": lambda: list(generator.as_completed([PROMPT])),
    }


@pytest.mark.parametrize("name", calls_of(None))
def test_each_call_warns_its_caller_once_of_a_cut(bare, name):
    with Generator(bare, backend="endless") as generator:
        call = calls_of(generator)[name]
        with pytest.warns(SamplingParamsWarning, match="said once") as warned:
            call()
        call()  # pytest makes a second warning an error

    assert [warning.filename for warning in warned] == [__file__]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=5),
        SamplingParams(max_tokens=None),
        SamplingParams(ignore_eos=True),
    ],
    ids=repr,
)
def test_a_length_that_the_caller_chose_is_not_called_a_cut(bare, params):
    with Generator(bare, backend="endless") as generator:
        handle = generator.submit(PROMPT, params)
        [output] = generator.generate(PROMPT, params)

    assert output.finish_reason == "length"
    assert handle.cut_by_default() is False


def test_a_handle_says_that_a_default_cut_its_answer(bare):
    with Generator(bare, backend="endless") as generator:
        handle = generator.submit(PROMPT)
        assert handle.result().finish_reason == "length"

    assert handle.cut_by_default() is True


def test_the_length_of_the_model_holds_for_calls_without_params(limited):
    with Generator(limited, backend="ending") as generator:
        with pytest.warns(SamplingParamsWarning, match="7 new tokens.*generation_con"):
            [without] = generator.generate(PROMPT)
        [own] = generator.generate(PROMPT, SamplingParams())

    assert length_of(without) == (7, "length")
    assert length_of(own) == (ENDS_AFTER + 1, "stop")


def test_params_from_the_model_keep_its_other_defaults(limited):
    with Generator(limited, backend="ending") as generator:
        params = SamplingParams.from_model(generator, max_tokens=9)
        [output] = generator.generate(PROMPT, params)

    assert params == SamplingParams(max_tokens=9, top_k=3)
    assert length_of(output) == (9, "length")


@pytest.mark.parametrize(
    ("params", "length"),
    [
        (None, 16),
        (SamplingParams(), 16),
        (attrs.evolve(SamplingParams(), top_k=2), 16),
        (SamplingParams(min_tokens=20), 20),
    ],
)
def test_llm_keeps_the_16_tokens_of_vllm_and_says_so(bare, params, length):
    message = f"{length} new tokens, the default of max_tokens in vLLM"
    with (
        LLM(bare, backend="endless") as llm,
        pytest.warns(SamplingParamsWarning, match=message) as warned,
    ):
        [output] = llm.generate(PROMPT, params, use_tqdm=False)

    assert length_of(output) == (length, "length")
    assert [warning.filename for warning in warned] == [__file__]


def test_llm_keeps_them_beside_a_least_length_of_the_model(tmp_path):
    model = model_in(tmp_path, {"min_new_tokens": 3})

    with (
        LLM(model, backend="endless") as llm,
        pytest.warns(SamplingParamsWarning, match="16 new tokens"),
    ):
        [output] = llm.generate(PROMPT, use_tqdm=False)

    assert length_of(output) == (16, "length")


def test_llm_takes_none_for_the_whole_context(bare):
    with LLM(bare, backend="endless") as llm, warnings.catch_warnings():
        warnings.simplefilter("error")
        [output] = llm.generate(PROMPT, SamplingParams(max_tokens=None), use_tqdm=False)
        defaults = llm.get_default_sampling_params()

    assert length_of(output) == (30, "length")
    assert defaults.max_tokens == 16


def test_params_of_an_llm_have_its_length(limited, bare):
    with LLM(bare, backend="ending") as one, LLM(limited, backend="ending") as other:
        assert SamplingParams.from_model(one).max_tokens == 16
        assert SamplingParams.from_model(other).max_tokens == 7


def test_a_row_of_a_job_goes_on_and_a_line_of_openais_has_its_16_tokens(bare, tmp_path):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({**line, "body": {"prompt": PROMPT}}))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt_token_ids": PROMPT}))

    for path in (lines, rows):
        run_batch(path, tmp_path / f"out-{path.name}", bare, backend="ending")

    line = json.loads((tmp_path / "out-lines.jsonl").read_text())
    row = json.loads((tmp_path / "out-rows.jsonl").read_text())
    assert line["response"]["body"]["usage"]["completion_tokens"] == 16
    assert row["num_generated_tokens"] == ENDS_AFTER + 1


def test_the_rows_of_a_job_may_have_more_tokens_at_least_than_16(bare, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt_token_ids": PROMPT}))
    output = tmp_path / "out.jsonl"

    run_batch(rows, output, bare, backend="ending", params={"min_tokens": 20})

    assert json.loads(output.read_text())["num_generated_tokens"] == ENDS_AFTER + 1
