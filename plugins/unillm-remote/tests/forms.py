# SPDX-License-Identifier: Apache-2.0

"""Fakes of servers that need what this project's machines lack, in their own forms.

Each is made of what the server's sources publish: the fields of a body (others are
refused), the form of an answer, and the rules of an end. The bundled model, computed in
numpy, is behind all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from unillm.backend import EngineRequest, SamplingParams
from unillm.testing.asking import bundled_asker
from unillm.testing.backends import reference_script

MAX_MODEL_LEN = 256
STEP_S = 0.002
"""Time of a step, in which requests come and go, as on a real engine."""
NUMBERS = itertools.count()


class Fake:
    """A server of one kind.

    Attributes:
        bodies: All bodies of its token endpoint.
    """

    def __init__(self):
        self.bodies = []
        self.script = reference_script()
        self.eos_ids = bundled_asker().eos_ids

    def routes(self):
        return [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route(self.path, self.generate, methods=["POST"]),
            Route(self.tokenize_path, self.tokenize, methods=["POST"]),
        ]

    async def health(self, _):
        return Response()

    async def models(self, _):
        return JSONResponse({"object": "list", "data": [self.card]})

    async def tokenize(self, request):
        body = await request.json()
        if self.text_field not in body:
            return JSONResponse({"error": "a text is missing"}, 400)
        ids = bundled_asker().ids(body[self.text_field])
        return JSONResponse({"tokens": list(ids), "count": len(ids)})

    async def generate(self, request):
        body = await request.json()
        self.bodies.append(body)
        if unknown := body.keys() - self.fields:
            return JSONResponse({"error": f"unknown: {sorted(unknown)}"}, 400)
        return await self.answer(body)

    async def tokens(self, prompt, params, stop_ids, limit):
        """Yield the model's tokens as they are computed."""
        number = next(NUMBERS)
        request = EngineRequest(
            request_id=str(number),
            prompt_token_ids=tuple(prompt),
            params=params,
            stop_token_ids=frozenset(stop_ids),
            max_new_tokens=limit,
            seed=number if params.seed is None else params.seed,
        )
        for position in range(limit):
            await asyncio.sleep(STEP_S)
            yield self.script(request, position).token_id


class FakeSglang(Fake):
    """SGLang: ids so far in each event, or with its flag new ones alone."""

    path, tokenize_path, text_field = "/generate", "/tokenize", "prompt"
    fields = frozenset(
        {"input_ids", "sampling_params", "stream", "rid", "return_logprob", "text"}
    )
    card = {"id": "tiny", "owned_by": "sglang", "max_model_len": MAX_MODEL_LEN}

    def __init__(self, *, incremental=False):
        super().__init__()
        self.incremental = incremental

    async def answer(self, body):
        given = body["sampling_params"]
        ignore, limit = given["ignore_eos"], given["max_new_tokens"]
        stop_ids = set(given["stop_token_ids"]) | self.eos_ids
        params = SamplingParams(
            temperature=given["temperature"],
            top_p=given["top_p"],
            top_k=given["top_k"],
            min_p=given["min_p"],
            presence_penalty=given["presence_penalty"],
            frequency_penalty=given["frequency_penalty"],
            min_tokens=given["min_new_tokens"],
            max_tokens=limit,
            logit_bias={int(i): b for i, b in given.get("logit_bias", {}).items()},
        )
        held = set(given["stop_token_ids"]) if ignore else stop_ids
        run = self.tokens(
            body["input_ids"], params, held if params.min_tokens else (), limit
        )

        async def events():
            ids = []
            async for token_id in run:
                ids.append(token_id)
                end = None
                if len(ids) == limit:  # SGLang looks at the length first
                    end = {"type": "length", "length": limit}
                elif not ignore and token_id in stop_ids:
                    end = {"type": "stop", "matched": token_id}
                about = {
                    "id": "x",
                    "finish_reason": end,
                    "prompt_tokens": len(body["input_ids"]),
                    "completion_tokens": len(ids),
                    "cached_tokens": 0,
                }
                shown = ids[-1:] if self.incremental else ids
                event = {"text": None, "output_ids": shown, "meta_info": about}
                yield f"data: {json.dumps(event)}\n\n"
                if end is not None:
                    break
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")


class FakeTrtllm(Fake):
    """``trtllm-serve``: a strict body; ids only without text."""

    path, tokenize_path, text_field = (
        "/v1/completions",
        "/_internal/tokenize",
        "prompt",
    )
    card = {"id": "tiny", "owned_by": "tensorrt_llm"}
    fields = frozenset(
        {
            *("model", "prompt", "best_of", "echo", "frequency_penalty", "logit_bias"),
            *("logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop"),
            *("stream", "stream_options", "suffix", "temperature", "top_p", "user"),
            *("lora_request", "prompt_ignore_length", "use_beam_search", "top_k"),
            *("top_p_min", "min_p", "repetition_penalty", "length_penalty"),
            *("early_stopping", "stop_token_ids", "include_stop_str_in_output"),
            *("ignore_eos", "min_tokens", "skip_special_tokens", "detokenize"),
            *("spaces_between_special_tokens", "truncate_prompt_tokens"),
            *("return_context_logits", "add_special_tokens", "response_format"),
            *("disaggregated_params", "priority", "conversation_params"),
        }
    )

    async def answer(self, body):
        limit = body["max_tokens"]
        stop_ids = set(body["stop_token_ids"])
        if not body["ignore_eos"]:
            stop_ids |= self.eos_ids
        params = SamplingParams(
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body["top_k"],
            max_tokens=limit,
            logit_bias={int(i): b for i, b in body.get("logit_bias", {}).items()},
        )
        run = self.tokens(body["prompt"], params, (), limit)

        async def events():
            count = 0
            async for token_id in run:
                count += 1
                stops = token_id in stop_ids
                kept = not stops or body["include_stop_str_in_output"]
                end = "stop" if stops else "length" if count == limit else None
                choice = {
                    "index": 0,
                    "text": "",
                    "token_ids": [token_id] * kept if not body["detokenize"] else None,
                    "logprobs": None,
                    "finish_reason": end,
                    "stop_reason": token_id if stops else None,
                }
                yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                if end is not None:
                    break
            details = {"cached_tokens": 0}
            usage = {"completion_tokens": count, "prompt_tokens_details": details}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")


class FakeLlamaCpp(Fake):
    """llama.cpp: one body; it knows EOS tokens and no other stop ids."""

    path, tokenize_path, text_field = "/completion", "/tokenize", "content"
    card = {"id": "tiny.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 1024}}
    fields = frozenset(
        {
            *("model", "prompt", "n_predict", "return_tokens", "temperature", "top_k"),
            *("top_p", "min_p", "repeat_penalty", "repeat_last_n", "seed", "samplers"),
            *("logit_bias", "stream", "stop", "ignore_eos", "cache_prompt", "n_probs"),
        }
    )

    def routes(self):
        return [*super().routes(), Route("/props", self.props)]

    async def props(self, _):
        settings = {"n_ctx": MAX_MODEL_LEN, "params": {}}
        return JSONResponse({"default_generation_settings": settings})

    async def answer(self, body):
        limit, biases = body["n_predict"], body.get("logit_bias", [])
        banned = {i for i, bias in biases if bias is False}
        order = ["penalties", "temperature", "min_p", "top_k", "top_p"]
        if body["samplers"] != order or body["repeat_last_n"] != -1:
            return JSONResponse({"error": "not the rules of the contract"}, 400)
        allowed = [i for i in range(512) if i not in banned]
        params = SamplingParams(
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body["top_k"],
            min_p=body["min_p"],
            repetition_penalty=body["repeat_penalty"],
            max_tokens=limit,
            seed=body["seed"],
            allowed_token_ids=allowed if banned else None,
            logit_bias={i: bias for i, bias in biases if bias is not False},
        )
        ids, stop = [], "limit"
        async for token_id in self.tokens(body["prompt"], params, (), limit):
            ids.append(token_id)
            if token_id in self.eos_ids:
                stop = "eos"
                break
        shown = ids if body.get("return_tokens") else []
        return JSONResponse(
            {"content": "…", "tokens": shown, "stop": True, "stop_type": stop}
        )


class FakeVllm(Fake):
    """vLLM without ``--enable-scale-out``: that endpoint is there and forbidden."""

    path, tokenize_path, text_field = "/v1/completions", "/tokenize", "prompt"
    card = {"id": "tiny", "owned_by": "vllm", "max_model_len": MAX_MODEL_LEN}

    def routes(self):
        path = "/inference/v1/generate"
        return [*super().routes(), Route(path, self.forbid, methods=["POST"])]

    async def forbid(self, _):
        return JSONResponse({"detail": "Scale-out endpoints are disabled."}, 403)

    async def generate(self, request):
        body = await request.json()
        params = SamplingParams(temperature=0, max_tokens=body["max_tokens"])
        choices = []
        async for token_id in self.tokens(
            body["prompt"], params, (), body["max_tokens"]
        ):
            stops = token_id in body["stop_token_ids"]
            choices.append({"token_ids": [token_id], "finish_reason": None})
            if stops or len(choices) == body["max_tokens"]:
                choices[-1]["finish_reason"] = "stop" if stops else "length"
                break
        events = [f"data: {json.dumps({'choices': [each]})}\n\n" for each in choices]
        return Response("".join(events), media_type="text/event-stream")


class FakeText(Fake):
    """OpenAI's endpoint and that of most gateways: text, whatever is asked for."""

    path, tokenize_path, text_field = "/v1/completions", "/none", "prompt"
    card = {"id": "gpt", "owned_by": "openai"}

    async def generate(self, request):
        self.bodies.append(await request.json())
        choice = {"index": 0, "text": "3", "finish_reason": "length"}
        event = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
        return Response(event, media_type="text/event-stream")


class FakeTriton(Fake):
    """Triton's own protocol, with the generate extension of a model."""

    def routes(self):
        return [Route("/v2", self.server), Route("/v2/health/ready", self.health)]

    async def server(self, _):
        return JSONResponse({"name": "triton", "version": "2.60.0", "extensions": []})


@contextlib.contextmanager
def serving(fake):
    """Serve a fake for the time of a block; yields its address."""
    config = uvicorn.Config(
        Starlette(routes=fake.routes()), port=0, log_level="error", lifespan="off"
    )
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def start(sockets=None):
        await startup(sockets)
        started.set()

    server.startup = start
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
