# SPDX-License-Identifier: Apache-2.0

"""`Generator` on the bundled model, as a user has it.

tests/embedded/test_contract.py runs the contract on the same backend: it shows what
each call returns, how requests end, and that bad requests fail alone. Here is the rest.
"""

from __future__ import annotations

import gc
import inspect
import io
import json
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from unillm import Generator, LoRARequest, SamplingParams
from unillm.errors import (
    ChatTemplateError,
    ConfigError,
    GeneratorClosedError,
    InvalidParameterError,
    InvalidPromptError,
    PromptTooLongError,
    PromptTypeError,
    RequestsFailedError,
    RequestsRefusedError,
    UnknownArgumentError,
    UnsupportedParameterError,
)
from unillm.model.find import find_model

GREEDY = SamplingParams(temperature=0, max_tokens=100)
ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
COUNT, NUMBERS = "Count from 3 to 9:", "3 4 5 6 7 8 9"
CHAT = [{"role": "user", "content": COUNT}]
UNSURE = "qwerty zxc %%"
"""A text unlike the training data, so that sampling has something to choose."""


@pytest.fixture(scope="module")
def generator():
    with Generator("unillm/tiny", max_num_seqs=4) as generator:
        yield generator


def texts_of(outputs):
    return [output.text for output in outputs]


def run_program(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ---------------------------------------------------------------------------- prompts


def test_a_prompt_has_any_of_its_forms(generator):
    ids = generator.get_tokenizer()(COUNT)["input_ids"]
    prompts = [
        COUNT,
        ids,
        np.array(ids),
        {"prompt": COUNT},
        {"prompt_token_ids": ids},
        {"messages": CHAT},
    ]

    together = generator.generate(prompts, GREEDY)
    alone = [generator.generate(prompt, GREEDY) for prompt in prompts]

    assert texts_of(together) == [NUMBERS] * 6
    assert [len(outputs) for outputs in alone] == [1] * 6
    assert [output.prompt for output in together[:5]] == [
        COUNT,
        None,
        None,
        COUNT,
        None,
    ]
    assert all(output.prompt_token_ids == ids for output in together[:5])
    assert generator.generate([], GREEDY) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
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
def test_a_bad_prompt_is_refused_and_the_generator_goes_on(generator, prompt, message):
    with pytest.raises(InvalidPromptError, match=message):
        generator.generate(prompt)

    assert generator.generate(COUNT)[0].text == NUMBERS


def test_errors_of_several_requests_are_raised_as_one(generator):
    with pytest.raises(RequestsRefusedError, match="2 of 4 requests failed") as caught:
        generator.generate([COUNT, [10**9], "Add 1 and 2:", ""], GREEDY)

    assert set(caught.value.errors) == {1, 3}
    assert caught.value.errors[1].prompt_index == 1
    texts = [None if r is None else r.text for r in caught.value.results]
    assert texts == [NUMBERS, None, "3", None]


def test_a_call_that_ran_out_of_time_was_not_refused(generator):
    with pytest.raises(RequestsFailedError) as caught:
        generator.generate(["", COUNT], ENDLESS, timeout_s=0.05)

    assert not isinstance(caught.value, ValueError)


def test_a_prompt_too_long_by_one_is_refused_with_both_numbers():
    with Generator("unillm/tiny", max_model_len=16) as generator:
        [output] = generator.generate([10] * 15, SamplingParams(max_tokens=50))
        with pytest.raises(PromptTooLongError, match="16 tokens; at most 15 fit") as e:
            generator.generate([10] * 16)

    assert (len(output.token_ids), output.fitted_max_tokens) == (1, 1)
    assert (e.value.prompt_tokens, e.value.max_prompt_tokens) == (16, 15)
    assert (e.value.max_model_len, e.value.prompt_index) == (16, 0)
    assert isinstance(e.value, ValueError)


def test_strict_length_refuses_max_tokens_beyond_the_context():
    with (
        Generator("unillm/tiny", max_model_len=16, strict_length=True) as generator,
        pytest.raises(InvalidParameterError, match="max_tokens"),
    ):
        generator.generate([10] * 10, SamplingParams(max_tokens=7))


def test_truncation_keeps_the_end_and_reports_the_rest(generator):
    ids = generator.get_tokenizer()(COUNT)["input_ids"]
    params = SamplingParams(
        temperature=0, truncate_prompt_tokens=len(ids), max_tokens=50
    )

    [output] = generator.generate([10] * 50 + ids, params)

    assert (output.prompt_token_ids, output.num_truncated_tokens) == (ids, 50)
    assert (output.text, output.fitted_max_tokens) == (NUMBERS, None)


# ------------------------------------------------------------------------------- chat


def test_chat_answers_one_conversation_or_many(generator):
    other = [{"role": "user", "content": "Add 17 and 25:"}]

    outputs = generator.chat([CHAT, other])

    assert texts_of(outputs) == [NUMBERS, "42"]
    assert texts_of(generator.chat(CHAT)) == [NUMBERS]
    # The template has the begin-of-text token; tokenising adds no second one.
    bos = generator.get_tokenizer().bos_token_id
    assert outputs[0].prompt_token_ids.count(bos) == 1


def test_a_begun_answer_is_continued(generator):
    begun = [*CHAT, {"role": "assistant", "content": "3 4 5"}]
    options = {"add_generation_prompt": False, "continue_final_message": True}

    [alone] = generator.chat(begun, GREEDY, **options)
    several = generator.chat([begun, begun], GREEDY, **options)

    assert alone.prompt.endswith("3 4 5")
    assert alone.text == " 6 7 8 9"
    assert texts_of(several) == [alone.text] * 2


def test_continuing_and_beginning_an_answer_contradict_each_other(generator):
    with pytest.raises(InvalidParameterError, match="pass add_generation_prompt=False"):
        generator.chat(CHAT, continue_final_message=True)


def test_a_message_that_the_template_leaves_out_cannot_be_continued(generator):
    with pytest.raises(ChatTemplateError, match="continue_final_message"):
        generator.chat(
            CHAT,
            chat_template="{{ 'nothing' }}",
            add_generation_prompt=False,
            continue_final_message=True,
        )


def test_tools_reach_a_template_that_offers_them(generator):
    def add(a: int, b: int):
        """Add two numbers.

        Args:
            a: The first.
            b: The second.
        """

    schema = {"type": "function", "function": {"name": "spell", "parameters": {}}}
    template = "{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}x"

    asked = {"tools": [add, schema], "chat_template": template}
    outputs = generator.chat([CHAT] * 2, SamplingParams(max_tokens=1), **asked)
    [ignored] = generator.chat(CHAT, tools=[schema])

    assert [output.prompt for output in outputs] == ["[add][spell]x"] * 2
    assert ignored.text == NUMBERS


TOOLS_ANSWER = {
    "content": None,
    "refusal": None,
    "role": "assistant",
    "function_call": None,
    "tool_calls": [
        {
            "id": "call_1",
            "function": {"arguments": '{"first": 3, "last": 9}', "name": "count"},
            "type": "function",
        }
    ],
    "reasoning_content": None,
}
"""A message as ``model_dump()`` of OpenAI's client writes it."""


def test_a_history_with_tool_calls_and_our_own_answers_reaches_the_template(generator):
    [first] = generator.chat(CHAT, GREEDY)
    history = [
        *CHAT,
        TOOLS_ANSWER,
        {"role": "tool", "tool_call_id": "call_1", "content": first.text},
        {"role": "assistant", "content": first.text, "tool_calls": [], "name": None},
    ]
    template = (
        "{% for m in messages %}[{{ m.keys() | list | join(' ') }}: {{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function.arguments.last }}"
        "{% endfor %}]{% endfor %}"
    )

    for prompt in (
        generator.chat(history, chat_template=template)[0].prompt,
        generator.chat([history] * 2, chat_template=template)[1].prompt,
    ):
        assert prompt == (
            f"[role content: {CHAT[0]['content']}][role content tool_calls: 9]"
            f"[role content tool_call_id: {NUMBERS}][role content: {NUMBERS}]"
        )


def test_a_template_of_parts_answers_as_one_of_texts(generator):
    text = generator.get_tokenizer().chat_template
    parts = text.replace("message['content']", "message['content'][0]['text']")

    answers = [
        generator.chat(CHAT, GREEDY, chat_template=template, **options)[0]
        for template in (text, parts)
        for options in ({}, {"chat_template_content_format": "auto"})
    ]
    with Generator("unillm/tiny", chat_template=parts) as other:
        answers += other.generate({"messages": CHAT}, GREEDY)

    assert {answer.prompt for answer in answers} == {answers[0].prompt}
    assert texts_of(answers) == [NUMBERS] * 5


def test_a_content_format_that_does_not_exist_is_refused(generator):
    with pytest.raises(InvalidParameterError, match="'auto', 'string', 'openai', got"):
        generator.chat(CHAT, chat_template_content_format="parts")


def test_the_generators_template_is_the_default_of_every_conversation():
    with Generator("unillm/tiny", chat_template="{{ 'own' }}") as generator:
        outputs = [
            *generator.chat(CHAT, GREEDY),
            *generator.generate({"messages": CHAT}, GREEDY),
            *generator.chat(CHAT, GREEDY, chat_template="{{ 'other' }}"),
        ]

    assert [output.prompt for output in outputs] == ["own", "own", "other"]


# ------------------------------------------------------- the end within a character

EMOJI = "Repeat: 日本 🙂 café:"


def test_a_text_ends_with_its_last_whole_character_wherever_the_length_ends_it(
    generator,
):
    decode = generator.get_tokenizer().decode
    [whole] = generator.generate(EMOJI, SamplingParams(temperature=0, max_tokens=60))
    cuts = range(1, len(whole.token_ids))
    params = [SamplingParams(temperature=0, max_tokens=count) for count in cuts]

    outputs = generator.generate([EMOJI] * len(cuts), params)

    shown = [decode(whole.token_ids[:count]) for count in cuts]
    assert sum(text.endswith("\ufffd") for text in shown) >= 8
    assert texts_of(outputs) == [text.rstrip("\ufffd") for text in shown]
    assert [output.token_ids for output in outputs] == [
        whole.token_ids[:count] for count in cuts
    ]
    for one, output in zip(params, outputs, strict=True):
        deltas = list(generator.stream(EMOJI, one))
        assert "".join(delta.text for delta in deltas) == output.text
        assert [i for delta in deltas for i in delta.token_ids] == output.token_ids


def test_a_stop_token_within_a_character_leaves_its_bytes_out_of_the_text(generator):
    [whole] = generator.generate(EMOJI, SamplingParams(temperature=0, max_tokens=60))
    smile = generator.get_tokenizer().encode("🙂", add_special_tokens=False)
    third = whole.token_ids.index(smile[0]) + 2
    params = SamplingParams(
        temperature=0, max_tokens=60, stop_token_ids=whole.token_ids[third : third + 1]
    )

    [output] = generator.generate(EMOJI, params)
    deltas = list(generator.stream(EMOJI, params))

    assert output.text == "日本 "
    assert output.token_ids == whole.token_ids[: third + 1]
    assert "".join(delta.text for delta in deltas) == output.text


def test_bytes_that_are_no_character_are_shown_before_further_text(generator):
    params = SamplingParams(temperature=0, max_tokens=20)

    [output] = generator.generate("Spell: café", params)

    assert "\ufffd \ufffd " in output.text


# ------------------------------------------------------------------- streams and handles


def test_no_delta_shows_a_stop_string(generator):
    params = SamplingParams(temperature=0, max_tokens=100, stop="caf")

    deltas = list(generator.stream("Repeat: 日本 🙂 café:", params))

    assert "".join(delta.text for delta in deltas) == "日本 🙂 "
    assert deltas[-1].stop_reason == "caf"


def test_a_handle_is_read_after_its_result_and_cancelled_at_once(generator):
    handle = generator.submit(COUNT, GREEDY)
    endless = generator.submit(COUNT, ENDLESS)

    assert handle.result(timeout=60).text == NUMBERS
    assert handle.done()
    assert "".join(delta.text for delta in handle) == NUMBERS
    endless.cancel()
    assert endless.done()


# ----------------------------------------------------------------------------- params


def test_the_output_so_far_is_read_without_waiting(generator):
    handle = generator.submit(COUNT, GREEDY)

    first = next(iter(handle))
    so_far = handle.output()
    handle.result()

    assert NUMBERS.startswith(first.text)
    assert so_far.text.startswith(first.text)
    assert handle.output() == handle.result()


def test_a_prompt_of_messages_takes_the_options_of_a_chat(generator):
    begun = [*CHAT, {"role": "assistant", "content": "3 4"}]
    prompt = {
        "messages": begun,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }

    submitted = generator.submit(prompt, GREEDY).result()
    [chat] = generator.chat(
        begun, GREEDY, add_generation_prompt=False, continue_final_message=True
    )

    assert submitted.prompt == chat.prompt
    assert submitted.text == chat.text


def test_an_unknown_key_of_a_prompt_of_messages_is_named(generator):
    with pytest.raises(PromptTypeError, match="unknown keys prefix"):
        generator.submit({"messages": CHAT, "prefix": "3"}, GREEDY)


def test_prompts_are_tokenized_as_requests_have_them(generator):
    text, chat = generator.generate([COUNT, {"messages": CHAT}], GREEDY)

    assert generator.tokenize(COUNT) == text.prompt_token_ids
    assert generator.tokenize({"messages": CHAT}) == chat.prompt_token_ids
    bare = generator.tokenize(COUNT, add_special_tokens=False)
    assert text.prompt_token_ids == [text.prompt_token_ids[0], *bare]


def test_token_ids_become_text_with_or_without_special_tokens(generator):
    ids = generator.tokenize(COUNT)

    assert generator.detokenize(ids) == f"<|begin_of_text|>{COUNT}"
    assert generator.detokenize(ids, skip_special_tokens=True) == COUNT
    with pytest.raises(InvalidPromptError, match="out of vocabulary"):
        generator.detokenize([10**6])


def test_a_healthy_engine_passes_its_check(generator):
    generator.check_health()


def test_the_models_defaults_are_given_as_a_copy(generator):
    path = find_model("unillm/tiny") / "generation_config.json"
    config = json.loads(path.read_text())
    expected = (config["temperature"], config["max_new_tokens"])

    defaults = generator.get_default_sampling_params()
    assert (defaults.temperature, defaults.max_tokens) == expected
    defaults.max_tokens = 1

    assert generator.generate(COUNT)[0].text == NUMBERS
    assert generator.get_default_sampling_params().max_tokens == expected[1]


def test_params_that_came_to_contradict_each_other_fail_alone(generator):
    changed = SamplingParams(temperature=0, max_tokens=20)
    changed.min_tokens = 50

    with pytest.raises(RequestsRefusedError, match="min_tokens=50 is more") as caught:
        generator.generate([COUNT, COUNT], [GREEDY, changed])

    assert caught.value.results[0].text == NUMBERS


def test_special_tokens_can_be_shown(generator):
    params = SamplingParams(
        temperature=0,
        max_tokens=50,
        skip_special_tokens=False,
        include_stop_str_in_output=True,
    )

    [output] = generator.generate(COUNT, params)

    assert output.text == NUMBERS + "<|end_of_text|>"


def test_a_request_without_a_seed_draws_from_the_generators():
    params = SamplingParams(temperature=2.0, max_tokens=40)
    texts = []
    for seed in (0, 0, 1):
        with Generator("unillm/tiny", seed=seed) as generator:
            texts.append(texts_of(generator.generate([UNSURE, UNSURE], params)))

    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": [GREEDY] * 3}, "2 prompts and 3 params"),
        ({"params": {"temperature": 0}}, "must be SamplingParams"),
        ({"params": [None, GREEDY]}, "must be SamplingParams"),
        ({"priority": [0]}, "2 prompts and 1 priority"),
        ({"priority": "high"}, "must be an integer, got 'high'"),
        ({"on_error": "ignore"}, "on_error must be"),
    ],
)
def test_an_invalid_argument_is_refused(generator, given, message):
    with pytest.raises(ValueError, match=message):
        generator.generate([COUNT, COUNT], **given)


def test_a_progress_bar_of_the_callers_own_counts_the_prompts(generator):
    shown = io.StringIO()

    generator.generate([COUNT] * 3, GREEDY, use_tqdm=partial(tqdm, file=shown))

    assert "Processed prompts: 100%" in shown.getvalue()
    assert "3/3" in shown.getvalue()


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "prompts", "use_tqdm", "shows"),
    [
        (Screen, [COUNT] * 3, None, True),
        (Screen, [COUNT], None, False),
        (Screen, [COUNT] * 3, False, False),
        (io.StringIO, [COUNT] * 3, None, False),
        (io.StringIO, [COUNT], True, True),
        (lambda: None, [COUNT] * 3, None, False),
    ],
)
def test_several_prompts_at_a_terminal_have_a_progress_bar(
    generator, monkeypatch, stream, prompts, use_tqdm, shows
):
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)

    generator.generate(prompts, GREEDY, use_tqdm=use_tqdm)

    shown = "" if screen is None else screen.getvalue()
    assert ("Processed prompts" in shown) is shows


def test_an_adapter_is_refused_without_enable_lora(generator, tmp_path):
    adapter = LoRARequest("one", 1, tmp_path)

    for use in (generator.generate, generator.submit):
        with pytest.raises(UnsupportedParameterError, match="cannot honour lora_req"):
            use(COUNT, GREEDY, lora_request=adapter)


@pytest.mark.parametrize("name", ["generate", "chat", "agenerate", "achat"])
def test_help_shows_each_keyword_of_a_list_call(name):
    keywords = inspect.signature(getattr(Generator, name)).parameters

    assert {"lora_request", "on_error", "priority", "timeout_s"} <= keywords.keys()
    with pytest.raises(TypeError, match="'timeout'"):
        getattr(Generator, name)(None, COUNT, timeout=1)


# ---------------------------------------------------------------------------- options


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


# ---------------------------------------------------------------------------- closing


def test_the_representation_says_model_backend_and_state():
    with Generator("unillm/tiny", max_num_seqs=2, max_model_len=64) as generator:
        found = repr(generator)
    unloaded = repr(Generator.__new__(Generator))

    facts = "context of 64 tokens, 2 requests at a time"
    assert found == f"<Generator 'unillm/tiny' on transformers, open: {facts}>"
    assert repr(generator) == found.replace("open", "closed")
    assert unloaded == "<Generator that is not loaded>"


def test_every_call_of_a_closed_generator_raises():
    generator = Generator("unillm/tiny")
    handle = generator.submit(COUNT, ENDLESS)

    generator.close()
    generator.close()

    with pytest.raises(GeneratorClosedError):
        handle.result(timeout=10)
    for use in (generator.generate, generator.stream, generator.submit):
        with pytest.raises(GeneratorClosedError, match="closed"):
            use(COUNT)
    with pytest.raises(GeneratorClosedError):
        generator.stats()


def test_a_closed_generator_keeps_no_engine_in_memory():
    generator = Generator("unillm/tiny")
    engine = weakref.ref(generator._driver.engine)
    generator.generate(COUNT, GREEDY)

    generator.close()
    gc.collect()

    assert engine() is None


def test_a_forgotten_generator_warns_and_ends_its_threads():
    before = set(threading.enumerate())
    generator = Generator("unillm/tiny")
    threads = set(threading.enumerate()) - before

    with pytest.warns(ResourceWarning, match="was not closed"):
        del generator

    assert threads
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


# --------------------------------------------------------------- processes and signals


def test_the_callers_tokenizer_is_not_changed(generator):
    tokenizer = generator.get_tokenizer()
    before = tokenizer.padding_side, dict(tokenizer.special_tokens_map)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Generator("unillm/tiny", tokenizer=tokenizer) as other:
            other.generate([COUNT, {"prompt": COUNT}])

    assert other.get_tokenizer() is tokenizer
    assert (tokenizer.padding_side, tokenizer.special_tokens_map) == before


@pytest.mark.slow
def test_ctrl_c_ends_the_call_and_leaves_the_generator_usable():
    run = run_program("""
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
            [output] = generator.generate("Add 17 and 25:")
            print(output.text)
            stats = generator.stats()
            print(stats["engine"]["running"], stats["engine"]["waiting"])
    """)

    assert run.stdout == "42\n0 0\n", run.stderr


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


def test_a_program_that_closes_nothing_ends_without_a_message():
    run = run_program("""
        from unillm import Generator, SamplingParams
        generator = Generator("unillm/tiny")
        generator.submit("Add 1 and 2:", SamplingParams(max_tokens=None, ignore_eos=True))
    """)

    assert (run.returncode, run.stderr) == (0, "")
