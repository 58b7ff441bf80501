# SPDX-License-Identifier: Apache-2.0

"""Results on standard output: text as it comes, text by text, or JSON lines.

Every write is flushed, so that the reader of a pipe has what is ready and a pipe that
broke is noticed at once.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import attrs
import typer

from .reporting import is_terminal, note, say_error

if TYPE_CHECKING:
    from .. import (
        CompletionOutput,
        Logprob,
        RequestHandle,
        RequestMetrics,
        RequestOutput,
    )
    from .requests import Result

_HEADER_WIDTH = 60


def write_stream(handle: RequestHandle) -> RequestOutput:
    """Write the text of a request as it comes, and return what it was.

    Raises:
        RequestError: The request failed; what came until then is written.
    """
    last = ""
    try:
        for delta in handle:
            last = delta.text or last
            write(delta.text)
    finally:
        handle.cancel()
        # Also after a failure: the message begins on a line of its own.
        if last and not last.endswith("\n"):
            write("\n")
    if not last:
        write("\n")
    return handle.result()


def write_texts(result: Result) -> None:
    """Write the completions of one prompt, each from a line of its own."""
    if result.output is None:
        say_error(f"{result.prompt.place}: {result.error}")
        return
    outputs = result.output.outputs
    for completion in outputs:
        if is_terminal(sys.stdout):
            write(_header(result, completion, of=len(outputs)))
        end = "" if completion.text.endswith("\n") else "\n"
        write(completion.text + end)
    write_notes(result.output, place=f"{result.prompt.place}: ")


def write_notes(output: RequestOutput, *, place: str = "") -> None:
    """Say on standard error what was done to a request that nobody sees in its text."""
    if output.num_truncated_tokens:
        note(
            f"{place}{output.num_truncated_tokens} tokens were cut from the prompt's "
            "start, as --truncate-prompt-tokens asked."
        )
    if output.fitted_max_tokens is not None:
        note(
            f"{place}the context left room for {output.fitted_max_tokens} new tokens, "
            "fewer than --max-tokens asked."
        )


def write_json(value: Any) -> None:
    """Write one JSON value on a line."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    write(json.dumps(value, ensure_ascii=ascii_only) + "\n")


def as_json(result: Result) -> dict[str, Any]:
    """Return one result as JSON values. Every key is always there, but ``outputs``."""
    output, error = result.output, result.error
    line: dict[str, Any] = {
        "index": result.index,
        "prompt": result.prompt.text if output is None else output.prompt,
        "text": None,
        "token_ids": None,
        "finish_reason": None,
        "stop_reason": None,
        "cumulative_logprob": None,
        "logprobs": None,
        "num_prompt_tokens": None,
        "num_cached_tokens": None,
        "num_truncated_tokens": None,
        "fitted_max_tokens": None,
        "metrics": None,
        "error": None,
    }
    if error is not None:
        line["error"] = {"type": type(error).__name__, "message": str(error)}
    if output is not None:
        completions = [_completion(each) for each in output.outputs]
        first = {key: completions[0][key] for key in line if key in completions[0]}
        line |= first | {
            "index": result.index,
            "num_prompt_tokens": len(output.prompt_token_ids),
            "num_cached_tokens": output.num_cached_tokens,
            "num_truncated_tokens": output.num_truncated_tokens,
            "fitted_max_tokens": output.fitted_max_tokens,
            "metrics": output.metrics and _metrics(output.metrics),
        }
        if len(completions) > 1:
            line["outputs"] = completions
    return line


def _completion(completion: CompletionOutput) -> dict[str, Any]:
    return {
        "index": completion.index,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        "cumulative_logprob": _finite(completion.cumulative_logprob),
        "logprobs": completion.logprobs
        and [
            [_logprob(token_id, each) for token_id, each in position.items()]
            for position in completion.logprobs
        ],
    }


def _logprob(token_id: int, logprob: Logprob) -> dict[str, Any]:
    value = _finite(logprob.logprob)
    return {"token_id": token_id, **attrs.asdict(logprob), "logprob": value}


def _finite(number: float | None) -> float | None:
    """JSON has no infinity: the logarithm of a probability of zero becomes null."""
    return number if number is not None and math.isfinite(number) else None


def _metrics(metrics: RequestMetrics) -> dict[str, Any]:
    last = metrics.last_token_ts
    return {
        "first_token_latency_s": metrics.first_token_latency,
        "latency_s": None if last is None else last - metrics.queued_ts,
        "num_generation_tokens": metrics.num_generation_tokens,
        "slots": metrics.slots and attrs.asdict(metrics.slots),
    }


def _header(result: Result, completion: CompletionOutput, *, of: int) -> str:
    text = result.prompt.text
    shown = "" if text is None else " ".join(text.split())
    if len(shown) > _HEADER_WIDTH:
        shown = shown[: _HEADER_WIDTH - 1] + "…"
    number = f" ({completion.index + 1} of {of})" if of > 1 else ""
    return typer.style(f"── {result.prompt.place}{number}  {shown}", dim=True) + "\n"


def write(text: str) -> None:
    """Write text as it is, now."""
    sys.stdout.write(text)
    sys.stdout.flush()
