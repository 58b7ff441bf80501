# SPDX-License-Identifier: Apache-2.0

"""Loads for a server that speaks OpenAI's API: streams of completions over HTTP.

Token ids are the evidence for a count. vLLM's servers and unillm's return them when
``return_token_ids`` asks; other servers ignore the field, and then their own count is
all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import ConfigError
from .lines import Ready, versions
from .loads import in_flight
from .samples import Run, Sample
from .workloads import BATCH, OPEN, Ask, Case

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 600.0
KEY_VARIABLE = "UNILLM_REMOTE_API_KEY"
"""Environment variable with the key that a server wants, as for remote engines."""

_DONE = "[DONE]"


class ServerLoad:
    """Loads for one model of one server.

    Args:
        url: Base address, without ``/v1``.
        model: Name of the model there.
        key: Sent with each request; `None` for a server that wants none.
    """

    def __init__(self, url: str, model: str, key: str | None = None) -> None:
        self._url = url
        self._model = model
        self._key = key

    def run(self, case: Case, asks: Sequence[Ask]) -> Run:
        """Serve the asks of one round, and return what was observed."""
        if case.kind == BATCH:
            case = attrs.evolve(case, size=len(asks))
        cpu = time.process_time()
        run = asyncio.run(self._run(case, asks))
        return attrs.evolve(run, client_cpu_s=time.process_time() - cpu)

    async def _run(self, case: Case, asks: Sequence[Ask]) -> Run:
        import httpx

        most = len(asks) if case.kind == OPEN else int(case.size)
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        async with httpx.AsyncClient(
            base_url=self._url,
            headers=_headers(self._key),
            timeout=TIMEOUT_S,
            limits=limits,
            trust_env=False,
        ) as client:
            # Connections are made before the clock starts, as a service has them.
            await asyncio.gather(*(client.get("/v1/models") for _ in range(most)))

            async def serve(ask: Ask, begun: float) -> Sample:
                return await self._serve(client, ask, begun)

            return await in_flight(case, asks, serve)

    async def _serve(self, client: httpx.AsyncClient, ask: Ask, begun: float) -> Sample:
        path, body = self._request(ask)
        stream = _Stream(ask=ask, begun=begun, sent=time.monotonic())
        try:
            async with client.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    text = (await response.aread()).decode("utf-8", "replace")
                    text = _without_key(text, self._key)
                    return Sample(error=f"HTTP {response.status_code}: {text[:200]}")
                async for event in _events(response):
                    stream.note(event)
        except Exception as error:  # noqa: BLE001 - a failed request is a result
            return Sample(error=f"{type(error).__name__}: {error}")
        return stream.sample()

    def _request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        body = {
            "model": self._model,
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        if isinstance(ask.prompt, Mapping) and "messages" in ask.prompt:
            messages = ask.prompt["messages"]
            return "/v1/chat/completions", {**body, "messages": messages}
        prompt = ask.prompt
        if isinstance(prompt, Mapping):
            prompt = prompt["prompt"]
        return "/v1/completions", {**body, "prompt": prompt}


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a stream of server-sent events."""
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data = line[5:].strip()
            if data != _DONE:
                yield json.loads(data)


@attrs.define(kw_only=True)
class _Stream:
    """One request while its events come."""

    ask: Ask
    begun: float
    sent: float
    ids: list[int] = attrs.field(factory=list)
    prompt_ids: list[int] | None = None
    chunks: int = 0
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    error: str | None = None
    first: float | None = None
    last: float | None = None
    gaps: list[float] = attrs.field(factory=list)

    def note(self, event: Mapping[str, Any]) -> None:
        """Read one event."""
        now = time.monotonic()
        if "error" in event:
            self.error = str(event["error"])
        self.usage = event.get("usage") or self.usage
        self._note_prompt(event.get("prompt_token_ids"))
        for choice in event.get("choices") or ():
            self._note_prompt(choice.get("prompt_token_ids"))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            ids = choice.get("token_ids") or []
            delta = choice.get("delta") or {}
            if ids or choice.get("text") or delta.get("content"):
                self._note_tokens(ids, now)

    def _note_prompt(self, ids: list[int] | None) -> None:
        self.prompt_ids = ids or self.prompt_ids

    def _note_tokens(self, ids: list[int], now: float) -> None:
        if self.last is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.gaps += [0.0] * (len(ids) - 1)
        self.last = now
        self.chunks += 1
        self.ids += ids

    def sample(self) -> Sample:
        """Return what the stream was."""
        usage = self.usage or {}
        details = usage.get("prompt_tokens_details") or {}
        sent_ids = self.ask.prompt if isinstance(self.ask.prompt, list) else None
        return Sample(
            token_ids=self.ids or None,
            reported_tokens=usage.get("completion_tokens") or len(self.ids),
            num_prompt_tokens=usage.get("prompt_tokens"),
            same_prompt=None
            if self.prompt_ids is None or sent_ids is None
            else self.prompt_ids == sent_ids,
            num_cached_tokens=details.get("cached_tokens") or 0,
            finish_reason=self.finish_reason,
            error=self.error,
            sent_s=self.sent - self.begun,
            first_s=None if self.first is None else self.first - self.begun,
            last_s=None if self.last is None else self.last - self.begun,
            gaps=self.gaps,
        )


@contextlib.contextmanager
def opened(url: str, model: str) -> Iterator[tuple[ServerLoad, Ready]]:
    """Find a model of a server, by its name or its root, and yield a load for it.

    Raises:
        ConfigError: The server does not answer, or does not have the model; or no
            header can hold the key.
    """
    import httpx

    base = url.rstrip("/").removesuffix("/v1")
    key = _key()
    try:
        answer = httpx.get(
            f"{base}/v1/models", headers=_headers(key), timeout=30, trust_env=False
        )
        models = answer.raise_for_status().json()["data"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        said = _without_key(str(error), key)
        raise ConfigError(
            f"{base}/v1/models does not answer as OpenAI's API does: {said}. A key "
            f"that it wants is taken from {KEY_VARIABLE}."
        ) from None
    names = [each["id"] for each in models]
    served = next((e for e in models if model in (e["id"], e.get("root"))), None)
    if served is None:
        raise ConfigError(
            f"{base} does not serve {model!r}. It serves: {', '.join(names)}. Give one "
            "of these names as the model, or start the server with "
            f"--served-model-name {model}."
        )
    load = ServerLoad(base, served["id"], key)
    begun = time.perf_counter()
    load.run(
        Case(kind=BATCH, size=1, requests=1),
        [Ask(prompt={"prompt": "Hello"}, max_tokens=1)],
    )
    yield (
        load,
        Ready(
            backend=served["id"],
            distribution=served.get("owned_by") or "",
            max_model_len=served.get("max_model_len"),
            versions=versions(),
            first_token_s=time.perf_counter() - begun,
        ),
    )


def _key() -> str | None:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        # Not shown, and HTTP's own error would show it.
        raise ConfigError(
            f"{KEY_VARIABLE} must hold printable characters of ASCII alone: the key is "
            "sent in a header of HTTP."
        )
    return key or None


def _without_key(text: str, key: str | None) -> str:
    """Return a text of the server without the key, which some servers repeat."""
    return text.replace(key, "***") if key else text


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}
