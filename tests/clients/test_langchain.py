# SPDX-License-Identifier: Apache-2.0

"""The standard tests of LangChain for a chat model, with langchain-openai."""

from __future__ import annotations

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


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
            "stream_usage": True,
        }

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False
