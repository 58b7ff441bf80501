# SPDX-License-Identifier: Apache-2.0

"""vLLM's own offline examples, with the import changed.

Each test names its example in vLLM's repository (v0.32:
``examples/basic/offline_inference`` and ``examples/features``; earlier
``examples/offline_inference``).
"""

from __future__ import annotations

import io
import json
import re
from functools import partial

import pytest
from tqdm import tqdm

from unillm import LLM, SamplingParams, StructuredOutputsParams

PROMPTS = [
    "Count from 3 to 9:",
    "Add 17 and 25:",
    "Spell the word apple:",
    "List the days from Tuesday:",
]
ANSWERS = [
    "3 4 5 6 7 8 9",
    "42",
    "a p p l e",
    "Tuesday Wednesday Thursday Friday Saturday Sunday Monday",
]


def test_basic(llm: LLM):
    """``basic.py``: several texts, one sampling, the text of each."""
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95)

    outputs = llm.generate(PROMPTS, sampling_params)

    assert [output.prompt for output in outputs] == PROMPTS
    for output in outputs:
        assert output.outputs[0].text
        assert len(output.outputs[0].token_ids) <= 16


def test_model_default_sampling(llm: LLM):
    """``basic_with_model_default_sampling.py``: the model's generation_config."""
    sampling_params = llm.get_default_sampling_params()

    outputs = llm.generate(PROMPTS, sampling_params)

    assert [output.outputs[0].text for output in outputs] == ANSWERS
    assert [output.outputs[0].text for output in llm.generate(PROMPTS)] == ANSWERS


def test_chat(llm: LLM):
    """``chat.py``: defaults changed by assignment, one chat, ten, another template."""
    sampling_params = llm.get_default_sampling_params()
    sampling_params.max_tokens = 5
    sampling_params.temperature = 0.0
    sampling_params.top_p = 0.95
    sampling_params.top_k = 40
    conversation = [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": "Add 1 and 2:"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "Count from 3 to 9:"},
    ]

    [one] = llm.chat(conversation, sampling_params, use_tqdm=False)
    ten = llm.chat([conversation for _ in range(10)], sampling_params, use_tqdm=True)
    template = (
        "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    [other] = llm.chat([conversation], sampling_params, chat_template=template)

    assert one.outputs[0].text == "3 4 5"
    assert [output.outputs[0].text for output in ten] == ["3 4 5"] * 10
    assert other.prompt.endswith("Add 1 and 2:3Count from 3 to 9:")


def test_chat_with_tools(llm: LLM):
    """``chat_with_tools.py``: the template renders tools and the answer of a tool."""
    template = (
        "{{ bos_token }}{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}"
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
        "{% endfor %}"
    )
    tool = {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
            },
        },
    }
    messages = [{"role": "user", "content": "What is the weather in Dallas?"}]
    sampling_params = SamplingParams(max_tokens=8, temperature=0.0)

    first = llm.chat(
        messages, sampling_params=sampling_params, tools=[tool], chat_template=template
    )
    messages.append({"role": "assistant", "content": first[0].outputs[0].text.strip()})
    messages.append({"role": "tool", "content": "85 degrees", "tool_call_id": "a1b2"})
    second = llm.chat(messages, sampling_params, tools=[tool], chat_template=template)

    assert first[0].prompt.count("[get_current_weather]user: ") == 1
    assert second[0].prompt.endswith("tool: 85 degrees\n")


def test_structured_outputs(llm: LLM):
    """``structured_outputs_offline.py``: a choice, a regex, a grammar."""

    def generate_output(**kind):
        outputs = llm.generate(
            prompts="Say something:",
            sampling_params=SamplingParams(
                max_tokens=60,
                temperature=0.0,
                structured_outputs=StructuredOutputsParams(**kind),
            ),
            use_tqdm=False,
        )
        return outputs[0].outputs[0].text

    choice = generate_output(choice=["Positive", "Negative"])
    matched = generate_output(regex=r"\w{2,5}@\w{2,5}\.com\n?")
    counted = generate_output(
        grammar='start: "SELECT " column " FROM " table\n'
        'column: "a" | "b"\ntable: "x" | "y"'
    )
    rooted = generate_output(
        grammar="""
        root ::= "SELECT " column " FROM " table

        column ::= "a" | "b"
        table ::= "x" | "y"
        """
    )

    assert choice in ("Positive", "Negative")
    assert re.fullmatch(r"\w{2,5}@\w{2,5}\.com\n?", matched)
    assert re.fullmatch("SELECT [ab] FROM [xy]", counted)
    assert re.fullmatch("SELECT [ab] FROM [xy]", rooted)


def test_structured_outputs_by_a_schema(llm: LLM):
    """The same example: JSON that fits a schema."""
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Iliad", "Odyssey"]}, "sold": {"const": 3}},
        "required": ["name", "sold"],
        "additionalProperties": False,
    }
    params = SamplingParams(
        max_tokens=100,
        temperature=0,
        structured_outputs=StructuredOutputsParams(
            json=schema, disable_any_whitespace=True
        ),
    )

    [output] = llm.generate("Name a book:", params)

    book = json.loads(output.outputs[0].text)
    assert book["name"] in ("Iliad", "Odyssey")
    assert book["sold"] == 3
    assert output.outputs[0].finish_reason == "stop"


def test_prefix_caching(llm: LLM):
    """``automatic_prefix_caching_offline.py``: the answers with and without a hit."""
    shared = "Add 1 and 1:\n2\n" * 18
    prompts = [shared + "Count from 3 to 9:", shared + "Add 17 and 25:"]
    sampling_params = SamplingParams(temperature=0.0, max_tokens=8)

    before = llm.generate(prompts, sampling_params)
    after = llm.generate(prompts, sampling_params)

    for cold, warm in zip(before, after, strict=True):
        assert cold.outputs[0].token_ids == warm.outputs[0].token_ids
        assert cold.num_cached_tokens <= warm.num_cached_tokens
        assert warm.num_cached_tokens < len(warm.prompt_token_ids)


def test_reproducibility(llm: LLM):
    """``reproducibility_offline.py``: the same seed and text, beside other requests."""
    params = SamplingParams(temperature=1.2, seed=42, max_tokens=20)

    [alone] = llm.generate("qwerty zxc %%", params)
    company = llm.generate([*PROMPTS, "qwerty zxc %%"], params)

    assert alone.outputs[0].token_ids == company[-1].outputs[0].token_ids


def test_prompts_rendered_by_hand(llm: LLM):
    """``manual_prompt_rendering.py``: token ids of a prompt that the caller rendered."""
    tokenizer = llm.get_tokenizer()
    conversation = [{"role": "user", "content": "Count from 3 to 9:"}]
    text = tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    params = SamplingParams(temperature=0, max_tokens=64)

    [by_hand] = llm.generate({"prompt_token_ids": ids}, params)
    [rendered] = llm.chat(conversation, params)

    assert rendered.prompt_token_ids == by_hand.prompt_token_ids
    assert rendered.outputs[0].token_ids == by_hand.outputs[0].token_ids
    assert (text, None) == (rendered.prompt, by_hand.prompt)


def test_a_progress_bar_of_the_callers_own(llm: LLM):
    """The documentation of ``use_tqdm``: a callable makes the bar."""
    shown = io.StringIO()

    llm.generate(PROMPTS, use_tqdm=partial(tqdm, file=shown, leave=False))

    assert "Processed prompts" in shown.getvalue()


@pytest.mark.parametrize("form", ["positional", "keyword"])
def test_positional_and_keyword_arguments(llm: LLM, form):
    """All examples: prompts and params by position or by keyword."""
    params = SamplingParams(temperature=0, max_tokens=64)
    if form == "positional":
        outputs = llm.generate(PROMPTS[0], params)
    else:
        outputs = llm.generate(prompts=PROMPTS[0], sampling_params=params)

    assert [output.outputs[0].text for output in outputs] == [ANSWERS[0]]
