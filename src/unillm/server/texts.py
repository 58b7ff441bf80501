# SPDX-License-Identifier: Apache-2.0

"""Endpoints of the tokenizer: text to token ids and back, and facts about it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidParameterError
from ..protocol.bodies import DetokenizeBody, TokenizeBody
from ..protocol.chat import chat_prompt
from ..protocol.listing import Detokenized, Tokenized
from .responses import json_response
from .service import Service

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class Texts:
    """The endpoints of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        """Serve ``POST /tokenize``."""
        body = (await self._service.read(request, TokenizeBody)).body
        generator = self._service.serving.generator()
        self._service.models.find(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise InvalidParameterError(
                "Send either prompt or messages.", parameter="prompt", value=None
            )
        trust = self._service.settings.trust_request_chat_template
        prompt: Any = body.prompt
        if prompt is None:
            prompt = chat_prompt(body, trust_templates=trust)

        def work() -> Tokenized:
            ids = generator.tokenize(prompt, add_special_tokens=body.add_special_tokens)
            answer = Tokenized(
                count=len(ids),
                max_model_len=generator.limits.max_model_len,
                tokens=ids,
            )
            if body.return_token_strs:
                answer.token_strs = [generator.detokenize([each]) for each in ids]
            return answer

        return json_response(await asyncio.to_thread(work))

    async def detokenize(self, request: Request) -> Response:
        """Serve ``POST /detokenize``."""
        body = (await self._service.read(request, DetokenizeBody)).body
        generator = self._service.serving.generator()
        self._service.models.find(body.model)
        text = await asyncio.to_thread(generator.detokenize, body.tokens)
        return json_response(Detokenized(prompt=text))

    async def tokenizer_info(self, _: Request) -> Response:
        """Serve ``GET /tokenizer_info``: class, special tokens and chat template."""
        generator = self._service.serving.generator()
        tokenizer = generator.get_tokenizer()
        info: dict[str, Any] = {"tokenizer_class": type(tokenizer).__name__}
        for name in (*_SPECIAL, "chat_template", "model_max_length"):
            value = getattr(tokenizer, name, None)
            info[name] = value if isinstance(value, (str, int, type(None))) else None
        if generator.config.chat_template is not None:
            info["chat_template"] = generator.config.chat_template
        return json_response(info)
