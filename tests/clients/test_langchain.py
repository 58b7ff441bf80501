# SPDX-License-Identifier: Apache-2.0

"""The standard tests of LangChain for a chat model, with langchain-openai."""

from __future__ import annotations

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

NEEDS_A_REAL_MODEL = {
    "test_json_mode": "the bundled model writes no JSON of its own",
    "test_structured_output": "the bundled model fills a schema to max_tokens",
    "test_structured_output_async": "the bundled model fills a schema to max_tokens",
    "test_structured_output_pydantic_2_v1": "the same",
    "test_structured_output_optional_param": "the same",
    "test_double_messages_conversation": "two user messages exceed its training",
}


class TestChat(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _address(self, url):
        type(self)._url = url

    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {
            "model": "unillm/tiny",
            "base_url": self._url,
            "api_key": "x",
            "temperature": 0,
            "max_tokens": 40,
        }

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False
