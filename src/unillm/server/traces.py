# SPDX-License-Identifier: Apache-2.0

"""Traces by OpenTelemetry's conventions for generative AI, where its API is installed.

`opentelemetry-api` alone does nothing: the server's environment needs an SDK and an
exporter, such as ``opentelemetry-instrument unillm serve …``. A span has no prompt, no
text and no key.

References:
    Semantic conventions for generative AI, status Development.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from .. import RequestHandle, SamplingParams

_PARAMS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
)


@attrs.frozen(kw_only=True)
class Trace:
    """One HTTP request that generates.

    Args:
        operation: "chat" or "text_completion".
        model: Name of the model in the answer.
        headers: Of the request; ``traceparent`` joins the span to the caller's trace.
    """

    operation: str
    model: str
    headers: Mapping[str, str]
    params: SamplingParams
    request_id: str

    def end(self, handles: Sequence[RequestHandle], error: str | None) -> None:
        """Record the span of a request that has ended.

        Args:
            handles: Requests of its prompts.
            error: Name of the error class that it failed with, or `None`.
        """
        try:
            from opentelemetry.propagate import extract
            from opentelemetry.trace import SpanKind, StatusCode, get_tracer
        except ModuleNotFoundError:
            return
        span = get_tracer("unillm").start_span(
            f"{self.operation} {self.model}",
            context=extract(self.headers),
            kind=SpanKind.SERVER,
            start_time=_began_ns(handles[0]),
            attributes=self._attributes(handles, error),
        )
        if error is not None:
            span.set_status(StatusCode.ERROR)
        span.end()

    def _attributes(
        self, handles: Sequence[RequestHandle], error: str | None
    ) -> dict[str, Any]:
        outputs = [handle.output() for handle in handles]
        ends = [each for output in outputs for each in output.outputs]
        asked = {name: getattr(self.params, name) for name in _PARAMS}
        found = {f"gen_ai.request.{name}": value for name, value in asked.items()}
        found |= {
            "gen_ai.operation.name": self.operation,
            "gen_ai.provider.name": "unillm",
            "gen_ai.request.model": self.model,
            "gen_ai.response.model": self.model,
            "gen_ai.request.choice.count": self.params.n,
            "gen_ai.response.id": self.request_id,
            "gen_ai.response.finish_reasons": [
                e.finish_reason or "abort" for e in ends
            ],
            "gen_ai.usage.input_tokens": sum(len(o.prompt_token_ids) for o in outputs),
            "gen_ai.usage.output_tokens": sum(len(e.token_ids) for e in ends),
            "gen_ai.usage.cache_read.input_tokens": sum(
                o.num_cached_tokens for o in outputs
            ),
            "error.type": error,
        }
        metrics = outputs[0].metrics
        if metrics is not None and metrics.first_token_latency is not None:
            latency = metrics.first_token_latency
            found["gen_ai.response.time_to_first_chunk"] = latency
        return {name: value for name, value in found.items() if value is not None}


def _began_ns(handle: RequestHandle) -> int | None:
    """Return the time of arrival in nanoseconds since the epoch."""
    metrics = handle.output().metrics
    return None if metrics is None else int(metrics.arrival_time * 1e9)
