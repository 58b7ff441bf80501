# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

PROMPT = "Count from 3 to 9:"
CHAT = [{"role": "user", "content": PROMPT}]


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_a_chat_is_answered(url, provider):
    options = {
        "model": f"{provider}/unillm/tiny",
        "messages": CHAT,
        "temperature": 0,
        "api_base": url,
        "api_key": "x",
    }

    whole = litellm.completion(**options)
    chunks = list(litellm.completion(**options, stream=True))

    text = whole.choices[0].message.content
    assert text == "3 4 5 6 7 8 9"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "openai/other"}, litellm.NotFoundError),
        ({"top_p": 0}, litellm.BadRequestError),
        (
            {"messages": [{"role": "user", "content": "word " * 3000}]},
            litellm.ContextWindowExceededError,
        ),
    ],
    ids=["model", "value", "length"],
)
def test_errors_have_their_classes(url, change, error):
    options = {"model": "openai/unillm/tiny", "messages": CHAT, **change}

    with pytest.raises(error):
        litellm.completion(**options, api_base=url, api_key="x", max_retries=0)
