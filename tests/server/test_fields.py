# SPDX-License-Identifier: Apache-2.0

"""Fields of requests: each is honoured, or refused by name."""

from __future__ import annotations

import itertools
import json

import pytest
from server_process import events

PROMPT = "Count from 3 to 9:"
ANSWER = "3 4 5 6 7 8 9"
CHAT = [{"role": "user", "content": PROMPT}]
UNSURE = "qwerty zxc %%"
"""A text unlike the training data, so that sampling has something to choose."""


@pytest.fixture(scope="module")
def complete(server):
    def complete(**body):
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 40, **body}
        answer = server.post("/v1/completions", **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return complete


@pytest.fixture(scope="module")
def chat(server):
    def chat(**body):
        body = {"messages": CHAT, "temperature": 0, "max_tokens": 40, **body}
        answer = server.post("/v1/chat/completions", **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return chat


@pytest.fixture(scope="module")
def stream(server):
    def stream(path="/v1/completions", **body):
        body = {"temperature": 0, "max_tokens": 40, "stream": True, **body}
        body |= {} if "messages" in body else {"prompt": body.get("prompt", PROMPT)}
        with server.client.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, answer.read()
            *chunks, done = events(answer)
        assert done == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]

    return stream


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def ids_of(server, text, **options):
    return server.post("/tokenize", prompt=text, **options).json()["tokens"]


# -------------------------------------------------------------------------------- text


def test_a_stop_string_ends_the_text_and_is_the_reason(complete):
    [choice] = complete(stop=[" 6", " 5"])["choices"]

    assert choice["text"] == "3 4"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", " 5")


def test_a_stop_string_stays_if_it_is_asked_for(complete):
    [choice] = complete(stop=" 5", include_stop_str_in_output=True)["choices"]

    assert choice["text"] == "3 4 5"


def test_the_limit_of_tokens_is_the_reason(complete):
    [choice] = complete(max_tokens=3)["choices"]

    assert choice["finish_reason"] == "length"


def test_completions_have_sixteen_tokens_by_default(server):
    body = {"prompt": PROMPT, "ignore_eos": True}

    answer = server.post("/v1/completions", **body).json()
    without_limit = server.post("/v1/completions", **body, max_tokens=None).json()

    assert answer["usage"]["completion_tokens"] == 16
    assert without_limit["usage"]["completion_tokens"] == 256  # the model's default


def test_a_chat_may_fill_the_context_by_default(chat):
    long = chat(max_tokens=None, ignore_eos=True, max_completion_tokens=50)

    assert long["usage"]["completion_tokens"] == 50


def test_the_index_of_a_choice_is_prompt_times_n_plus_completion(complete):
    answer = complete(
        prompt=[PROMPT, "Spell the word cat:"], n=2, temperature=0.01, seed=1
    )

    found = [(choice["index"], choice["text"]) for choice in answer["choices"]]
    assert found == [(0, ANSWER), (1, ANSWER), (2, "c a t"), (3, "c a t")]


def test_prompts_may_be_token_ids(complete, server):
    ids = ids_of(server, PROMPT)

    [choice] = complete(prompt=ids, return_token_ids=True)["choices"]
    several = complete(prompt=[ids, ids])["choices"]

    assert choice["text"] == ANSWER
    assert choice["prompt_token_ids"] == ids
    assert [each["text"] for each in several] == [ANSWER, ANSWER]


def test_the_tokens_of_a_choice_are_returned_on_request(complete, server):
    [choice] = complete(return_token_ids=True)["choices"]

    assert choice["text"] == ANSWER
    text = server.post("/detokenize", tokens=choice["token_ids"]).json()["prompt"]
    assert text.startswith(ANSWER)


def test_special_tokens_can_be_left_out_of_the_prompt(complete, server):
    [choice] = complete(add_special_tokens=False, return_token_ids=True)["choices"]

    assert choice["prompt_token_ids"] == ids_of(server, PROMPT)[1:]


def test_a_long_prompt_is_truncated_on_request(complete, server):
    [choice] = complete(
        prompt="word " * 3000, truncate_prompt_tokens=5, return_token_ids=True
    )["choices"]

    assert choice["prompt_token_ids"] == ids_of(server, "word " * 3000)[-5:]


def test_a_seed_repeats_a_sampled_text(complete):
    texts = [
        complete(prompt=UNSURE, temperature=1.5, seed=7)["choices"][0]["text"]
        for _ in range(2)
    ]
    other = complete(prompt=UNSURE, temperature=1.5, seed=8)["choices"][0]["text"]

    assert texts[0] == texts[1] != other


def test_a_bias_forces_and_bans_tokens(complete, server):
    [token_id] = ids_of(server, "7", add_special_tokens=False)

    forced = complete(logit_bias={str(token_id): 100}, max_tokens=3)
    banned = complete(logit_bias={str(token_id): -100}, max_tokens=20)

    assert forced["choices"][0]["text"] == "777"
    assert "7" not in banned["choices"][0]["text"]


def test_an_answer_that_was_begun_is_continued(chat):
    begun = [*CHAT, {"role": "assistant", "content": "3 4 5"}]

    answer = chat(
        messages=begun, continue_final_message=True, add_generation_prompt=False
    )

    assert answer["choices"][0]["message"]["content"] == " 6 7 8 9"


def test_content_may_be_parts(chat):
    parts = [{"type": "text", "text": PROMPT}]

    answer = chat(messages=[{"role": "user", "content": parts}])

    assert answer["choices"][0]["message"]["content"] == ANSWER


# ------------------------------------------------------------------ structured outputs

STRUCTURES = {
    "choice": ({"structured_outputs": {"choice": ["yes", "no"]}}, {"yes", "no"}),
    "regex": ({"structured_outputs": {"regex": "[ab]c"}}, {"ac", "bc"}),
    "grammar": (
        {"structured_outputs": {"grammar": 'start: "x" | "y"'}},
        {"x", "y"},
    ),
}


@pytest.mark.parametrize(("fields", "texts"), STRUCTURES.values(), ids=STRUCTURES)
def test_a_structure_is_held(chat, complete, fields, texts):
    assert chat(**fields)["choices"][0]["message"]["content"] in texts
    assert complete(**fields)["choices"][0]["text"] in texts


def test_a_schema_is_held(chat):
    schema = {"enum": ["yes", "no"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    text = chat(response_format=form)["choices"][0]["message"]["content"]

    assert json.loads(text) in ("yes", "no")


# ---------------------------------------------------------------- log-probabilities


def test_log_probabilities_of_a_chat_have_the_chosen_and_the_best_tokens(chat):
    answer = chat(logprobs=True, top_logprobs=2)

    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    assert content[0]["token"] == "3"
    assert content[0]["bytes"] == [ord("3")]
    for each in content:
        assert len(each["top_logprobs"]) == 2
        assert each["top_logprobs"][0]["logprob"] >= each["top_logprobs"][1]["logprob"]
        assert each["top_logprobs"][0]["token"] == each["token"]  # greedy


def test_a_chat_without_top_logprobs_has_the_chosen_alone(chat):
    content = chat(logprobs=True)["choices"][0]["logprobs"]["content"]

    assert all(each["top_logprobs"] == [] for each in content)


def test_echo_has_the_prompt_and_no_probability_of_its_first_token(complete, server):
    ids = ids_of(server, PROMPT)

    [choice] = complete(echo=True, logprobs=1, max_tokens=2)["choices"]

    logprobs = choice["logprobs"]
    assert choice["text"].startswith(PROMPT)
    assert len(logprobs["tokens"]) == len(ids) + 2
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(isinstance(each, float) for each in logprobs["token_logprobs"][1:])
    assert "".join(logprobs["tokens"][1:]) == choice["text"]
    offsets = [0]
    for token in logprobs["tokens"][:-1]:
        offsets.append(offsets[-1] + len(token))
    assert logprobs["text_offset"] == offsets


def test_echo_of_no_new_token_is_the_prompt_alone(complete, stream, server):
    answer = complete(echo=True, logprobs=0, max_tokens=0)

    [choice] = answer["choices"]
    assert choice["text"] == PROMPT
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == len(ids_of(server, PROMPT))
    assert answer["usage"]["completion_tokens"] == 0
    chunks = stream(echo=True, max_tokens=0)
    assert "".join(each["choices"][0]["text"] for each in chunks) == PROMPT
    reasons = [each["choices"][0]["finish_reason"] for each in chunks]
    assert reasons == ["length"]


def test_tokens_can_be_named_by_their_ids(chat, complete, server):
    [three] = ids_of(server, "3", add_special_tokens=False)

    of_chat = chat(logprobs=True, return_tokens_as_token_ids=True)
    of_text = complete(logprobs=1, return_tokens_as_token_ids=True)

    name = f"token_id:{three}"
    assert of_chat["choices"][0]["logprobs"]["content"][0]["token"] == name
    assert of_text["choices"][0]["logprobs"]["tokens"][0] == name
    assert of_text["choices"][0]["logprobs"]["token_ranks"][0] == 1
    assert "token_ranks" not in complete(logprobs=1)["choices"][0]["logprobs"]


def test_log_probabilities_of_the_prompt_are_vllms(chat, complete, server):
    ids = ids_of(server, PROMPT)

    first, *others = complete(prompt_logprobs=1)["choices"][0]["prompt_logprobs"]

    assert first is None
    assert [str(each) in entry for each, entry in zip(ids[1:], others, strict=True)]
    assert all(
        entry[str(each)]["rank"] >= 1
        for each, entry in zip(ids[1:], others, strict=True)
    )
    assert chat(prompt_logprobs=0)["prompt_logprobs"][0] is None


def test_a_banned_token_has_a_number_that_json_can_write(complete):
    answer = complete(logprobs=20, structured_outputs={"choice": ["yes", "no"]})

    assert json.dumps(answer, allow_nan=False)


# --------------------------------------------------------------------------- streams

STREAMED = {
    "plain": {},
    "logprobs": {"logprobs": 2},
    "echo": {"echo": True, "logprobs": 1},
    "stop": {"stop": [" 7"]},
    "several": {"n": 3, "temperature": 1.2, "seed": 5},
    "several prompts": {"prompt": [PROMPT, "Spell the word cat:", UNSURE]},
    "token ids": {"return_token_ids": True},
    "structure": {"structured_outputs": {"choice": ["yes", "no"]}},
}


@pytest.mark.parametrize("fields", STREAMED.values(), ids=STREAMED)
def test_a_stream_says_the_same_as_the_body(complete, stream, fields):
    whole = complete(**fields)

    *chunks, last = stream(**fields, stream_options={"include_usage": True})

    assert last["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in chunks]
        mine = [each for each in mine if each["index"] == choice["index"]]
        assert "".join(each["text"] for each in mine) == choice["text"]
        reasons = [each["finish_reason"] for each in mine]
        assert reasons == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        assert mine[-1]["stop_reason"] == choice["stop_reason"]
        if choice["logprobs"]:
            for name, values in choice["logprobs"].items():
                assert joined(each["logprobs"][name] for each in mine) == values
        if "token_ids" in choice:
            assert joined(each["token_ids"] for each in mine) == choice["token_ids"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": True, "top_logprobs": 2},
        {"n": 3, "temperature": 1.2, "seed": 5},
        {"stop": " 7"},
        {"return_token_ids": True},
    ],
    ids=["plain", "logprobs", "several", "stop", "token ids"],
)
def test_the_stream_of_a_chat_says_the_same_as_the_body(chat, stream, fields):
    whole = chat(**fields)

    chunks = stream("/v1/chat/completions", messages=CHAT, **fields)

    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in chunks]
        first, *rest = [each for each in mine if each["index"] == choice["index"]]
        assert first["delta"] == {"role": "assistant", "content": ""}
        text = "".join(each["delta"].get("content", "") for each in rest)
        assert text == choice["message"]["content"]
        reasons = [each["finish_reason"] for each in rest]
        assert reasons == [None] * (len(rest) - 1) + [choice["finish_reason"]]
        assert rest[-1].get("stop_reason") == choice["stop_reason"]
        if choice["logprobs"]:
            content = [each["logprobs"]["content"] for each in rest]
            assert joined(content) == choice["logprobs"]["content"]
        if "token_ids" in choice:
            assert joined(each["token_ids"] for each in rest) == choice["token_ids"]


def test_usage_comes_as_the_options_of_the_stream_say(stream):
    def usages(options):
        fields = {} if options is None else {"stream_options": options}
        return [chunk.get("usage") for chunk in stream(**fields)]

    for nothing in (None, {}, {"include_usage": False}):
        assert set(usages(nothing)) == {None}
    *before, last = usages({"include_usage": True})
    assert set(before) == {None}
    assert last["total_tokens"] == 25
    *before, last = usages({"include_usage": True, "continuous_usage_stats": True})
    counts = [each["completion_tokens"] for each in before]
    assert counts == sorted(counts)
    assert counts[-1] == last["completion_tokens"] == 14


def test_a_stream_is_marked_for_proxies(server):
    body = {"prompt": PROMPT, "stream": True}
    with server.client.stream("POST", "/v1/completions", json=body) as answer:
        answer.read()

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


# -------------------------------------------------------------------------- refusals

REFUSED = {
    "too many logprobs": ({"logprobs": 21}, "logprobs"),
    "negative logprobs": ({"logprobs": -1}, "logprobs"),
    "all prompt logprobs": ({"prompt_logprobs": -1}, "prompt_logprobs"),
    "temperature": ({"temperature": 3}, "temperature"),
    "top_p": ({"top_p": 0}, "top_p"),
    "n": ({"n": 0, "temperature": 1}, "n"),
    "a number as text": ({"max_tokens": "5"}, "max_tokens"),
    "a flag as text": ({"stream": "yes"}, "stream"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "a bias of no id": ({"logit_bias": {"x": 1}}, "logit_bias"),
    "a bias outside the vocabulary": ({"logit_bias": {"99999": 1}}, "logit_bias"),
    "an empty prompt": ({"prompt": ""}, None),
    "no prompt": ({"prompt": None}, "prompt"),
    "an empty list": ({"prompt": []}, "prompt"),
    "mixed prompts": ({"prompt": ["a", 1]}, "prompt"),
    "an id outside the vocabulary": ({"prompt": [10**6]}, None),
    "best_of": ({"best_of": 2}, "best_of"),
    "suffix": ({"suffix": "x"}, "suffix"),
    "beam search": ({"use_beam_search": True}, "use_beam_search"),
    "an old name": ({"guided_json": {}}, "guided_json"),
    "a misspelt name": ({"temperatur": 1}, "temperatur"),
    "two structures": (
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        "structured_outputs",
    ),
    "an unknown structure": (
        {"structured_outputs": {"structural_tag": "x"}},
        "structured_outputs",
    ),
    "both structures": (
        {
            "structured_outputs": {"regex": "a"},
            "response_format": {"type": "json_object"},
        },
        "structured_outputs",
    ),
    "a format without a schema": (
        {"response_format": {"type": "json_schema"}},
        "response_format",
    ),
    "an unknown format": ({"response_format": {"type": "xml"}}, "response_format.type"),
    "timeout_s": ({"timeout_s": 0}, "timeout_s"),
    "priority": ({"priority": "high"}, "priority"),
    "a huge seed": ({"seed": 2**63}, "seed"),
    "the wrong side": ({"truncation_side": "right"}, "truncation_side"),
}


@pytest.mark.parametrize(("fields", "param"), REFUSED.values(), ids=REFUSED)
def test_a_field_is_refused_by_name(server, fields, param):
    body = {"prompt": PROMPT, "temperature": 0, **fields}

    answer = server.post("/v1/completions", **body)
    streamed = server.post("/v1/completions", **{"stream": True, **body})

    assert answer.status_code == streamed.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 20


REFUSED_CHATS = {
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
    "no messages": ({"messages": []}, "messages"),
    "absent messages": ({"messages": None}, "messages"),
    "a message without a role": ({"messages": [{"content": "x"}]}, None),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        None,
    ),
    "an empty list of tools": ({"tools": []}, "tools"),
    "a template of the request": ({"chat_template": "{{ x }}"}, "chat_template"),
    "audio": ({"modalities": ["text", "audio"]}, "modalities"),
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "continuing and beginning": (
        {"continue_final_message": True},
        "continue_final_message",
    ),
}


@pytest.mark.parametrize(("fields", "param"), REFUSED_CHATS.values(), ids=REFUSED_CHATS)
def test_a_field_of_a_chat_is_refused_by_name(server, fields, param):
    answer = server.post("/v1/chat/completions", **{"messages": CHAT, **fields})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_options_of_a_stream_need_a_stream(server):
    options = {"include_usage": True}
    answer = server.post("/v1/completions", prompt=PROMPT, stream_options=options)
    nothing = server.post("/v1/completions", prompt=PROMPT, stream_options={})

    assert nothing.status_code == 200
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stream_options"


def test_fields_that_change_nothing_are_accepted_and_named(server):
    answer = server.post(
        "/v1/completions",
        prompt=PROMPT,
        temperature=0,
        user="me",
        metadata={"a": "b"},
        suffix=None,
        best_of=1,
        use_beam_search=False,
    )

    assert answer.status_code == 200
    assert answer.headers["x-unillm-ignored"] == "metadata, user"
    assert answer.json()["choices"][0]["text"] == ANSWER


def test_a_deadline_ends_a_request_and_is_not_retried(server):
    answer = server.post(
        "/v1/completions",
        prompt=PROMPT,
        ignore_eos=True,
        max_tokens=900,
        timeout_s=0.05,
    )

    assert answer.status_code == 408
    assert answer.headers["x-should-retry"] == "false"


def test_a_content_type_other_than_json_is_refused(server):
    answer = server.client.post(
        "/v1/completions", content=b"{}", headers={"content-type": "text/plain"}
    )

    assert answer.status_code == 400


# ------------------------------------------------------------------------- tokenizer


def test_text_becomes_tokens_and_text_again(server):
    answer = server.post("/tokenize", prompt=PROMPT, return_token_strs=True).json()

    assert answer["count"] == len(answer["tokens"]) == 11
    assert answer["max_model_len"] == 1024
    assert "".join(answer["token_strs"][1:]) == PROMPT
    text = server.post("/detokenize", tokens=answer["tokens"]).json()
    assert text == {"prompt": f"<|begin_of_text|>{PROMPT}"}


def test_messages_become_the_tokens_of_a_chat(server, chat):
    ids = server.post("/tokenize", messages=CHAT).json()["tokens"]

    assert chat(return_token_ids=True)["prompt_token_ids"] == ids


def test_the_tokenizer_says_what_lm_eval_reads(server):
    info = server.client.get("/tokenizer_info").json()

    assert info["eos_token"] == "<|eot_id|>"
    assert info["bos_token"] == "<|begin_of_text|>"
    assert "messages" in info["chat_template"]


# ----------------------------------------------------------------------------- ids


def test_a_request_id_is_taken_and_echoed(server):
    answer = server.client.post(
        "/v1/completions", json={"prompt": PROMPT}, headers={"X-Request-Id": "abc-1"}
    )

    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.json()["id"] == "cmpl-abc-1"


def test_a_request_id_of_other_characters_is_replaced(server):
    answer = server.client.get("/health", headers={"X-Request-Id": "a b"})

    assert len(answer.headers["x-request-id"]) == 32


def test_the_log_has_no_prompt(server):
    server.post("/v1/completions", prompt="a secret of mine", max_tokens=1)

    assert "POST /v1/completions" in server.log()
    assert "secret" not in server.log()
