# SPDX-License-Identifier: Apache-2.0

"""Results on standard output: a stream of text, whole texts, or JSON lines.

Every write is flushed: the reader of a pipe has each result at once, and a broken pipe
is noticed at the next write.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import typer

from ..errors import ConfigError
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

_COMPLETION_KEYS = (
    "text",
    "token_ids",
    "finish_reason",
    "stop_reason",
    "cumulative_logprob",
    "logprobs",
)


@contextlib.contextmanager
def to_file(path: Path | None) -> Iterator[Callable[[], object]]:
    """Send standard output to a file during a ``with`` block; `None` changes nothing.

    The block calls its target before it writes, which empties the file: until then
    something can fail, and what an earlier command wrote is still there.

    Raises:
        ConfigError: The file cannot be written.
    """
    if path is None:
        yield lambda: None
        return
    path = Path(os.path.expanduser(path))
    try:
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--output {path} cannot be written: {error.strerror or error}."
        ) from error
    with stream, contextlib.redirect_stdout(stream):
        yield lambda: path.is_file() and stream.truncate(0)


def write(text: str) -> None:
    """Write text unchanged and flush it."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_stream(handle: RequestHandle) -> RequestOutput:
    """Write the text of a request as it comes, and return its output.

    Raises:
        RequestError: The request failed; the text until then is written.
    """
    last = ""
    try:
        for delta in handle:
            last = delta.text or last
            write(delta.text)
    finally:
        handle.cancel()
        # After a failure too: the error message starts on its own line.
        if last and not last.endswith("\n"):
            write("\n")
    if not last:
        write("\n")
    return handle.result()


def write_texts(result: Result) -> None:
    """Write the completions of one prompt, each on lines of its own."""
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


def _header(result: Result, completion: CompletionOutput, *, of: int) -> str:
    shown = " ".join((result.prompt.text or "").split())
    if len(shown) > _HEADER_WIDTH:
        shown = shown[: _HEADER_WIDTH - 1] + "…"
    number = f" ({completion.index + 1} of {of})" if of > 1 else ""
    return typer.style(f"── {result.prompt.place}{number}  {shown}", dim=True) + "\n"


def write_notes(output: RequestOutput, *, place: str = "") -> None:
    """Note on standard error how a request was changed to fit the context."""
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


# -------------------------------------------------------------------------------- JSON


def write_json(value: Any) -> None:
    """Write one line of JSON; a class of fields becomes an object of them."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    write(json.dumps(value, ensure_ascii=ascii_only, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Return the next simpler form of a value that `json` does not know."""
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    if dataclasses.is_dataclass(value):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, enum.Enum):
        return value.value
    return value.isoformat() if isinstance(value, dt.datetime) else os.fspath(value)


def as_json(result: Result) -> dict[str, Any]:
    """Return one result as JSON values.

    Every key is always there, but ``outputs`` and the ids that a line of the input has.
    """
    output, error = result.output, result.error
    completions = [_completion(each) for each in output.outputs] if output else []
    first = completions[0] if completions else dict.fromkeys(_COMPLETION_KEYS)
    line = {
        "index": result.index,
        **result.prompt.ids,
        "prompt": output.prompt if output else result.prompt.text,
        **{key: first[key] for key in _COMPLETION_KEYS},
        "num_prompt_tokens": output and len(output.prompt_token_ids),
        "num_cached_tokens": output and output.num_cached_tokens,
        "num_truncated_tokens": output and output.num_truncated_tokens,
        "fitted_max_tokens": output and output.fitted_max_tokens,
        "metrics": output and output.metrics and _metrics(output.metrics),
        "error": error and {"type": type(error).__name__, "message": str(error)},
    }
    if len(completions) > 1:
        line["outputs"] = completions
    return line


def _completion(completion: CompletionOutput) -> dict[str, Any]:
    logprobs = completion.logprobs
    return {
        "index": completion.index,
        **{key: getattr(completion, key) for key in _COMPLETION_KEYS},
        "cumulative_logprob": _finite(completion.cumulative_logprob),
        "logprobs": logprobs
        and [[_logprob(*each) for each in entries.items()] for entries in logprobs],
    }


def _logprob(token_id: int, logprob: Logprob) -> dict[str, Any]:
    value = _finite(logprob.logprob)
    return {"token_id": token_id, **vars(logprob), "logprob": value}


def _finite(number: float | None) -> float | None:
    """Return `None` for a minus infinity, which JSON does not have."""
    return number if number is not None and math.isfinite(number) else None


def _metrics(metrics: RequestMetrics) -> dict[str, Any]:
    last = metrics.last_token_ts
    return {
        "first_token_latency_s": metrics.first_token_latency,
        "latency_s": None if last is None else last - metrics.queued_ts,
        "num_generation_tokens": metrics.num_generation_tokens,
        "slots": metrics.slots,
    }
