# SPDX-License-Identifier: Apache-2.0

"""The generator on the embedded backend and the bundled model, as a user has it."""

from __future__ import annotations

import gc
import io
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
from tqdm import tqdm

from unillm import Generator, LoRARequest, SamplingParams
from unillm.errors import (
    ChatTemplateError,
    ConfigError,
    EosNotFoundError,
    GeneratorClosedError,
    InvalidParameterError,
    InvalidPromptError,
    ModelLoadError,
    ModelNotFoundError,
    PromptTooLongError,
    RequestsFailedError,
    RequestsRefusedError,
    RequestTimeoutError,
    UnknownArgumentError,
    UnsafeModelError,
    UnsupportedParameterError,
)
from unillm.model.find import find_model

GREEDY = SamplingParams(temperature=0, max_tokens=100)
ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
COUNT = "Count from 3 to 9:"
UNSURE = "qwerty zxc %%"
"""Nothing that the model was trained on, so that sampling has something to choose."""
NUMBERS = "3 4 5 6 7 8 9"


@pytest.fixture(scope="module")
def generator():
    with Generator("unillm/tiny", max_num_seqs=4) as generator:
        yield generator


@pytest.fixture
def model_copy(tmp_path):
    """A copy of the bundled model that a test may break."""
    return Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))


def ids_of(generator, text: str) -> list[int]:
    return list(generator.get_tokenizer()(text)["input_ids"])


# ----------------------------------------------------------------------- the main job


def test_a_prompt_becomes_truthful_text(generator):
    [output] = generator.generate(COUNT)

    assert (
        output.prompt,
        output.text,
        output.finish_reason,
    ) == (COUNT, NUMBERS, "stop")
    assert output.finished
    assert output.token_ids[-1] in generator.eos_token_ids


def test_prompts_of_every_form_are_taken(generator):
    ids = ids_of(generator, COUNT)
    prompts = [COUNT, ids, {"prompt": COUNT}, {"prompt_token_ids": ids}]

    outputs = generator.generate(prompts, GREEDY)

    assert [output.text for output in outputs] == [NUMBERS] * 4
    assert [output.prompt for output in outputs] == [COUNT, None, COUNT, None]
    assert all(ids == output.prompt_token_ids for output in outputs)


def test_a_list_of_ids_is_one_prompt_and_an_empty_list_none(generator):
    assert len(generator.generate(ids_of(generator, COUNT), GREEDY)) == 1
    assert generator.generate([], GREEDY) == []


def test_results_come_in_the_callers_order(generator):
    prompts = [f"Count from 1 to {n}:" for n in (20, 2, 9, 1, 18, 4, 3, 12)]

    outputs = generator.generate(prompts, GREEDY)

    assert prompts == [output.prompt for output in outputs]
    for n, output in zip((20, 2, 9, 1, 18, 4, 3, 12), outputs, strict=True):
        assert " ".join(map(str, range(1, n + 1))) == output.text


def test_each_prompt_can_have_its_own_params(generator):
    params = [GREEDY, SamplingParams(temperature=0, max_tokens=3)]

    full, cut = generator.generate([COUNT, COUNT], params)

    assert (full.finish_reason, cut.finish_reason) == ("stop", "length")
    assert full.token_ids[:3] == cut.token_ids


def test_chat_answers_one_conversation_or_many(generator):
    one = [{"role": "user", "content": COUNT}]
    two = [{"role": "user", "content": "Add 17 and 25:"}]

    outputs = generator.chat([one, two])

    assert [output.text for output in outputs] == [NUMBERS, "42"]
    assert outputs[0] is not None
    assert generator.chat(one)[0].text == NUMBERS
    # The template brings the begin-of-text token; tokenising adds no second one.
    bos = generator.get_tokenizer().bos_token_id
    assert outputs[0].prompt_token_ids.count(bos) == 1


def test_an_answer_that_was_begun_is_continued(generator):
    begun = [
        {"role": "user", "content": COUNT},
        {"role": "assistant", "content": "3 4 5"},
    ]
    options = {"add_generation_prompt": False, "continue_final_message": True}

    [alone] = generator.chat(begun, GREEDY, **options)
    several = generator.chat([begun, begun], GREEDY, **options)

    assert alone.prompt.endswith("3 4 5")
    assert alone.text == " 6 7 8 9"
    assert [alone.text] * 2 == [output.text for output in several]


def test_continuing_and_beginning_an_answer_contradict_each_other(generator):
    with pytest.raises(InvalidParameterError, match="pass add_generation_prompt=False"):
        generator.chat(
            [{"role": "user", "content": COUNT}], continue_final_message=True
        )


def test_a_message_that_the_template_leaves_out_cannot_be_continued(generator):
    with pytest.raises(ChatTemplateError, match="continue_final_message"):
        generator.chat(
            [{"role": "user", "content": COUNT}],
            chat_template="{{ 'nothing' }}",
            add_generation_prompt=False,
            continue_final_message=True,
        )


def test_tools_reach_the_template_of_every_conversation(generator):
    def add(a: int, b: int):
        """Add two numbers.

        Args:
            a: The first.
            b: The second.
        """

    schema = {"type": "function", "function": {"name": "spell", "parameters": {}}}
    said = [{"role": "user", "content": COUNT}]
    template = "{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}x"

    one, two = generator.chat(
        [said, said], GREEDY, tools=[add, schema], chat_template=template
    )

    assert "[add][spell]x" == one.prompt == two.prompt


def test_a_template_that_knows_no_tools_ignores_them(generator):
    schema = {"type": "function", "function": {"name": "spell", "parameters": {}}}

    [output] = generator.chat([{"role": "user", "content": COUNT}], tools=[schema])

    assert output.text == NUMBERS


def test_deltas_of_a_stream_add_up_to_the_text(generator):
    deltas = list(generator.stream(COUNT, GREEDY))

    [output] = generator.generate(COUNT, GREEDY)
    assert output.text == "".join(delta.text for delta in deltas)
    assert output.token_ids == [i for delta in deltas for i in delta.token_ids]
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"]


def test_no_delta_shows_half_a_character_or_a_stop_string(generator):
    prompt = "Repeat: 日本 🙂 café:"
    [whole] = generator.generate(prompt, GREEDY)
    assert "caf" in whole.text
    params = SamplingParams(temperature=0, max_tokens=100, stop="caf")

    deltas = list(generator.stream(prompt, params))

    assert whole.text.split("caf")[0] == "".join(delta.text for delta in deltas)
    assert any(not delta.text.isascii() for delta in deltas)
    assert all("\ufffd" not in delta.text for delta in deltas)
    assert deltas[-1].stop_reason == "caf"


def test_leaving_a_stream_cancels_its_request(generator):
    before = generator.stats()["cancelled"]

    for delta in generator.stream("Count from 1 to 40:", ENDLESS):
        assert delta.finish_reason is None
        break
    gc.collect()

    until = time.monotonic() + 10
    while generator.stats()["engine"]["running"] and time.monotonic() < until:
        time.sleep(0.01)
    assert generator.stats()["cancelled"] == before + 1
    assert generator.stats()["engine"]["running"] == 0


def test_a_submitted_request_can_be_awaited_read_and_cancelled(generator):
    handle = generator.submit(COUNT, GREEDY)
    endless = generator.submit(COUNT, ENDLESS)

    assert handle.result(timeout=60).text == NUMBERS
    assert handle.done()
    assert "".join(delta.text for delta in handle) == NUMBERS
    endless.cancel()
    assert endless.done()


def test_a_deadline_ends_a_request_with_what_it_has(generator):
    with pytest.raises(RequestTimeoutError) as caught:
        generator.generate(COUNT, ENDLESS, timeout_s=0.05)

    assert caught.value.output.finish_reason == "abort"


def test_a_call_without_params_uses_the_models_own_defaults(generator):
    config = json.loads(
        (find_model("unillm/tiny") / "generation_config.json").read_text()
    )

    defaults = generator.get_default_sampling_params()

    assert (config["temperature"], config["max_new_tokens"]) == (
        defaults.temperature,
        defaults.max_tokens,
    )


# --------------------------------------------------------------------- sampling fields


def test_several_completions_of_one_prompt_have_seeds_of_their_own(generator):
    params = SamplingParams(n=3, temperature=2.0, seed=7, max_tokens=20)

    [together] = generator.generate(UNSURE, params)
    alone = [
        generator.generate(
            UNSURE, SamplingParams(temperature=2.0, seed=7 + i, max_tokens=20)
        )[0]
        for i in range(3)
    ]

    assert [completion.index for completion in together.outputs] == [0, 1, 2]
    assert [a.token_ids for a in alone] == [c.token_ids for c in together.outputs]
    assert len({tuple(c.token_ids) for c in together.outputs}) == 3


def test_stop_strings_end_the_text_before_them(generator):
    [output] = generator.generate(COUNT, SamplingParams(temperature=0, stop=["7", "x"]))

    assert (
        output.text,
        output.finish_reason,
        output.outputs[0].stop_reason,
    ) == ("3 4 5 6 ", "stop", "7")
    [kept] = generator.generate(
        COUNT,
        SamplingParams(temperature=0, stop="7", include_stop_str_in_output=True),
    )
    assert kept.text == "3 4 5 6 7"


def test_stop_ids_are_reported_and_eos_is_not(generator):
    [plain] = generator.generate(COUNT, GREEDY)
    primary = generator.eos.primary
    second = plain.token_ids[4]

    [stopped] = generator.generate(
        COUNT, SamplingParams(temperature=0, stop_token_ids=[second])
    )

    expected = None if plain.token_ids[-1] == primary else plain.token_ids[-1]
    assert plain.outputs[0].stop_reason == expected
    assert second == stopped.outputs[0].stop_reason
    first = plain.token_ids.index(second)
    assert plain.token_ids[: first + 1] == stopped.token_ids


def test_chat_ends_with_the_tokenizers_own_eos_which_has_no_stop_reason(generator):
    [output] = generator.chat([{"role": "user", "content": COUNT}])

    assert generator.eos.primary == output.token_ids[-1]
    assert output.outputs[0].stop_reason is None


def test_ignoring_eos_goes_on_to_the_length(generator):
    [output] = generator.generate(
        COUNT, SamplingParams(temperature=0, ignore_eos=True, max_tokens=30)
    )

    assert (len(output.token_ids), output.finish_reason) == (30, "length")


def test_min_tokens_puts_off_the_end(generator):
    [output] = generator.generate(
        "Add 1 and 2:", SamplingParams(temperature=0, min_tokens=12, max_tokens=40)
    )

    assert not generator.eos_token_ids & set(output.token_ids[:12])
    assert len(output.token_ids) >= 12


def test_special_tokens_can_be_shown(generator):
    [output] = generator.generate(
        COUNT,
        SamplingParams(
            temperature=0,
            max_tokens=50,
            skip_special_tokens=False,
            include_stop_str_in_output=True,
        ),
    )

    assert output.text == NUMBERS + "<|end_of_text|>"


def test_logprobs_have_the_chosen_token_first(generator):
    [output] = generator.generate(
        COUNT, SamplingParams(temperature=0, max_tokens=5, logprobs=3)
    )

    completion = output.outputs[0]
    assert len(completion.logprobs) == 5
    for token_id, entries in zip(
        completion.token_ids, completion.logprobs, strict=True
    ):
        assert token_id == next(iter(entries))
        assert entries[token_id].rank == 1
        assert 3 <= len(entries) <= 4
    total = sum(
        e[t].logprob
        for t, e in zip(completion.token_ids, completion.logprobs, strict=True)
    )
    assert total == pytest.approx(completion.cumulative_logprob)
    assert completion.logprobs[0][completion.token_ids[0]].decoded_token == "3"


def test_a_seed_gives_the_same_text_whatever_runs_beside_it(generator):
    params = SamplingParams(temperature=1.5, seed=11, max_tokens=30)
    [alone] = generator.generate(UNSURE, params)

    crowd = generator.generate(
        [UNSURE] + [f"Count from {n} to 20:" for n in range(9)],
        [params] + [SamplingParams(temperature=1.0, max_tokens=30)] * 9,
    )

    assert alone.token_ids == crowd[0].token_ids


def test_a_request_without_a_seed_draws_from_the_generators():
    texts = []
    for seed in (0, 0, 1):
        with Generator("unillm/tiny", seed=seed) as generator:
            params = SamplingParams(temperature=2.0, max_tokens=40)
            texts.append([o.text for o in generator.generate([UNSURE, UNSURE], params)])

    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]


# ------------------------------------------------------------------------------ lengths


def test_a_prompt_too_long_by_one_is_refused_with_both_numbers():
    with Generator("unillm/tiny", max_model_len=16) as generator:
        fits = [10] * 15

        [output] = generator.generate(fits, SamplingParams(max_tokens=50))
        with pytest.raises(PromptTooLongError, match="16 tokens; at most 15 fit") as e:
            generator.generate([*fits, 10])

    assert len(output.token_ids) == 1
    assert output.fitted_max_tokens == 1
    assert (
        e.value.prompt_tokens,
        e.value.max_prompt_tokens,
        e.value.max_model_len,
        e.value.prompt_index,
    ) == (16, 15, 16, 0)
    assert isinstance(e.value, ValueError)


def test_max_tokens_is_fitted_and_the_output_says_so(generator):
    context = generator.limits.max_model_len
    [output] = generator.generate([10] * (context - 5), SamplingParams(max_tokens=99))
    [short] = generator.generate(COUNT, GREEDY)

    assert output.fitted_max_tokens == 5
    assert len(output.token_ids) <= 5
    assert short.fitted_max_tokens is None


def test_strict_length_refuses_what_does_not_fit():
    with (
        Generator("unillm/tiny", max_model_len=16, strict_length=True) as generator,
        pytest.raises(InvalidParameterError, match="max_tokens"),
    ):
        generator.generate([10] * 10, SamplingParams(max_tokens=7))


def test_truncation_keeps_the_end_and_says_how_much_was_cut(generator):
    ids = ids_of(generator, COUNT)

    [output] = generator.generate(
        [10] * 50 + ids,
        SamplingParams(temperature=0, truncate_prompt_tokens=len(ids), max_tokens=50),
    )

    assert (ids, 50, NUMBERS) == (
        output.prompt_token_ids,
        output.num_truncated_tokens,
        output.text,
    )


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], None),
        ("", "empty"),
        ([[]], "empty"),
        ({"prompt_token_ids": []}, "empty"),
        ([5, 10**9], "vocabulary"),
        ([5, -1], "vocabulary"),
        ([2**70], "vocabulary"),
        ([5, 1.5], "1.5"),
        ({"text": "x"}, "prompt"),
        (5, "int"),
        (None, "NoneType"),
        (b"bytes", "bytes"),
    ],
)
def test_a_bad_prompt_is_refused_and_the_generator_goes_on(generator, prompt, said):
    if said is None:
        assert generator.generate(prompt) == []
        return
    with pytest.raises(InvalidPromptError, match=said):
        generator.generate(prompt)

    assert generator.generate(COUNT)[0].text == NUMBERS


def test_one_bad_prompt_takes_no_good_one_with_it(generator):
    prompts = [COUNT, [10**9], "Add 1 and 2:", ""]

    with pytest.raises(RequestsRefusedError, match="2 of 4 requests failed") as caught:
        generator.generate(prompts, GREEDY)

    assert set(caught.value.errors) == {1, 3}
    assert caught.value.errors[1].prompt_index == 1
    texts = [None if r is None else r.text for r in caught.value.results]
    assert texts == [NUMBERS, None, "3", None]


def test_a_call_that_ran_out_of_time_was_not_refused(generator):
    with pytest.raises(RequestsFailedError) as caught:
        generator.generate(["", COUNT], ENDLESS, timeout_s=0.05)

    assert not isinstance(caught.value, ValueError)


def test_errors_can_be_returned_in_place(generator):
    outputs = generator.generate([COUNT, ""], GREEDY, on_error="return")

    assert outputs[0].text == NUMBERS
    assert isinstance(outputs[1], InvalidPromptError)


def test_a_request_keeps_the_params_of_the_moment_it_was_made(generator):
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)

    handle = generator.submit(COUNT, params)
    params.max_tokens = 1

    assert len(handle.result().token_ids) == 30
    assert len(generator.generate(COUNT, params)[0].token_ids) == 1


def test_the_models_defaults_are_given_as_a_copy(generator):
    defaults = generator.get_default_sampling_params()
    defaults.max_tokens = 1

    assert generator.generate(COUNT)[0].text == NUMBERS
    assert generator.get_default_sampling_params().max_tokens != 1


def test_params_that_came_to_contradict_each_other_fail_alone(generator):
    changed = SamplingParams(temperature=0)
    changed.min_tokens = 50

    with pytest.raises(RequestsRefusedError, match="min_tokens=50 is more") as caught:
        generator.generate([COUNT, COUNT], [GREEDY, changed])

    assert caught.value.results[0].text == NUMBERS


def test_each_prompt_can_have_its_own_priority(generator):
    outputs = generator.generate([COUNT, COUNT], GREEDY, priority=[3, 0])

    assert [output.text for output in outputs] == [NUMBERS] * 2
    with pytest.raises(InvalidParameterError, match="2 prompts and 1 priority values"):
        generator.generate([COUNT, COUNT], GREEDY, priority=[0])
    with pytest.raises(InvalidParameterError, match="must be an integer, got 'high'"):
        generator.generate(COUNT, GREEDY, priority="high")


def test_a_bar_of_the_callers_own_counts_the_prompts(generator):
    shown = io.StringIO()

    generator.generate([COUNT] * 3, GREEDY, use_tqdm=partial(tqdm, file=shown))

    assert "Processed prompts: 100%" in shown.getvalue()
    assert "3/3" in shown.getvalue()


def test_params_of_the_wrong_number_are_refused(generator):
    with pytest.raises(InvalidParameterError, match="2 prompts and 3 params"):
        generator.generate([COUNT, COUNT], [GREEDY] * 3)


@pytest.mark.parametrize("params", [{"temperature": 0}, 0.5, [None]])
def test_params_of_the_wrong_type_are_refused(generator, params):
    with pytest.raises(InvalidParameterError, match="must be SamplingParams"):
        generator.generate([COUNT], params)


def test_more_logprobs_than_allowed_are_refused(generator):
    with pytest.raises(InvalidParameterError, match="max_logprobs=20"):
        generator.generate(COUNT, SamplingParams(logprobs=21))


def test_an_unknown_option_suggests_the_nearest():
    with pytest.raises(UnknownArgumentError, match="Did you mean 'max_num_seqs'"):
        Generator("unillm/tiny", max_num_seq=4)


def test_an_unknown_backend_option_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'device'"):
        Generator("unillm/tiny", backend_options={"devise": "cpu"})


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_seqs": 0},
        {"max_model_len": True},
        {"dtype": "float8"},
        {"max_model_len": 10**6},
        {"max_logprobs": -2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_impossible_option_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Generator("unillm/tiny", **options)


def test_a_closed_generator_says_so():
    generator = Generator("unillm/tiny")
    generator.close()
    generator.close()

    for use in (generator.generate, generator.stream, generator.submit):
        with pytest.raises(GeneratorClosedError, match="closed"):
            use(COUNT)
    with pytest.raises(GeneratorClosedError):
        generator.stats()


def test_closing_ends_what_runs():
    generator = Generator("unillm/tiny")
    handle = generator.submit(COUNT, ENDLESS)

    generator.close()

    with pytest.raises(GeneratorClosedError):
        handle.result(timeout=10)


def test_a_forgotten_generator_warns_and_ends_its_thread():
    generator = Generator("unillm/tiny")
    thread = generator._driver._thread

    with pytest.warns(ResourceWarning, match="was not closed"):
        del generator
    thread.join(10)

    assert not thread.is_alive()


# ---------------------------------------------------------------------------- bad models


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        Generator(tmp_path / "nowhere")


def test_a_misspelt_bundled_name_suggests_it():
    with pytest.raises(ModelNotFoundError, match="unillm/tiny"):
        Generator("unillm-tiny")


def test_corrupt_weights_are_told(model_copy):
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        Generator(model_copy)


def test_a_broken_config_is_told(model_copy):
    (model_copy / "config.json").write_text("{")

    with pytest.raises(ModelLoadError, match=r"config\.json"):
        Generator(model_copy, backend="transformers")


def test_pickled_weights_are_refused_and_leave_no_trace(model_copy):
    canary = model_copy / "canary"
    (model_copy / "model.safetensors").unlink()
    # A pickle that would create the canary if anything loaded it.
    command = f"cbuiltins\nopen\n(V{canary}\nVw\ntR."
    (model_copy / "pytorch_model.bin").write_bytes(command.encode())

    with pytest.raises(UnsafeModelError, match="safetensors"):
        Generator(model_copy)

    assert not canary.exists()


def test_code_in_the_checkpoint_is_refused_and_not_run(model_copy):
    canary = model_copy / "canary"
    config = json.loads((model_copy / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
    }
    config["model_type"] = "evil"
    (model_copy / "config.json").write_text(json.dumps(config))
    (model_copy / "evil.py").write_text(f"open({str(canary)!r}, 'w')")

    with pytest.raises(UnsafeModelError, match="trust_remote_code"):
        Generator(model_copy, backend="transformers")

    assert not canary.exists()


def test_a_model_without_end_ids_lists_the_files_read(model_copy):
    for name in ("config.json", "generation_config.json"):
        values = json.loads((model_copy / name).read_text())
        values.pop("eos_token_id", None)
        (model_copy / name).write_text(json.dumps(values))
    values = json.loads((model_copy / "tokenizer_config.json").read_text())
    for key in ("eos_token", "chat_template"):
        values.pop(key, None)
    (model_copy / "tokenizer_config.json").write_text(json.dumps(values))
    (model_copy / "chat_template.jinja").unlink(missing_ok=True)

    with pytest.raises(EosNotFoundError, match=r"generation_config\.json"):
        Generator(model_copy)


def test_chat_without_a_template_is_told(model_copy):
    values = json.loads((model_copy / "tokenizer_config.json").read_text())
    values.pop("chat_template", None)
    (model_copy / "tokenizer_config.json").write_text(json.dumps(values))
    (model_copy / "chat_template.jinja").unlink(missing_ok=True)

    with (
        Generator(model_copy) as generator,
        pytest.raises(ChatTemplateError, match="template"),
    ):
        generator.chat([{"role": "user", "content": COUNT}])


# ---------------------------------------------------------------- threads and signals


def test_several_threads_use_one_generator(generator):
    answers = {}

    def ask(n: int) -> None:
        prompts = [f"Count from {n} to {n + k}:" for k in range(5)]
        answers[n] = [output.text for output in generator.generate(prompts, GREEDY)]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    for n in range(8):
        expected = [" ".join(map(str, range(n, n + k + 1))) for k in range(5)]
        assert answers[n] == expected


@pytest.mark.slow
def test_ctrl_c_ends_what_was_asked_and_leaves_the_generator_usable():
    code = """
        import signal, sys, threading, os, time
        from unillm import Generator, SamplingParams
        endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
        with Generator("unillm/tiny") as generator:
            generator.generate("Add 1 and 2:")
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                while True:
                    generator.generate(["Count from 1 to 9:"] * 50, endless)
            except KeyboardInterrupt:
                pass
            [output] = generator.generate("Count from 3 to 9:")
            print(output.text)
            stats = generator.stats()
            print(stats["engine"]["running"], stats["engine"]["waiting"])
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert run.stdout == f"{NUMBERS}\n0 0\n", run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_leaves_no_child(number):
    code = """
        import sys
        from unillm import Generator, SamplingParams
        generator = Generator("unillm/tiny")
        handle = generator.submit("Add 1 and 2:", SamplingParams(max_tokens=None, ignore_eos=True))
        print("ready", flush=True)
        handle.result()
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.send_signal(number)
        process.wait(20)

    assert children == ""


def test_leaving_a_program_without_closing_ends_it():
    code = """
        from unillm import Generator, SamplingParams
        generator = Generator("unillm/tiny")
        generator.submit("Add 1 and 2:", SamplingParams(max_tokens=None, ignore_eos=True))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "")


def test_the_callers_things_are_not_changed(generator):
    tokenizer = generator.get_tokenizer()
    side, special = tokenizer.padding_side, dict(tokenizer.special_tokens_map)
    prompts = [COUNT, {"prompt": COUNT}]
    before = json.dumps(prompts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Generator("unillm/tiny", tokenizer=tokenizer) as other:
            other.generate(prompts)

    assert tokenizer is other.get_tokenizer()
    assert (side, special) == (tokenizer.padding_side, tokenizer.special_tokens_map)
    assert json.dumps(prompts) == before


# ---------------------------------------------------------------------------- adapters


def test_an_adapter_on_a_generator_without_them_is_refused_with_what_to_pass(
    generator, tmp_path
):
    adapter = LoRARequest("one", 1, tmp_path)

    with pytest.raises(UnsupportedParameterError, match="cannot honour lora_request"):
        generator.generate(COUNT, GREEDY, lora_request=adapter)
    with pytest.raises(UnsupportedParameterError, match="cannot honour lora_request"):
        generator.submit(COUNT, GREEDY, lora_request=adapter)
