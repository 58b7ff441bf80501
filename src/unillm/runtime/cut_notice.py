# SPDX-License-Identifier: Apache-2.0

"""`CutNotice`: one warning for each generator whose default cut an answer."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from ..params import SamplingParamsWarning
from .handle import RequestHandle


class CutNotice:
    """Warns of the first answer that a default length cut, in its caller's thread.

    Args:
        max_model_len: Tokens of the context.
        max_tokens: New tokens of params that set none; `None` for those of the context.
    """

    def __init__(self, max_model_len: int, max_tokens: int | None) -> None:
        self._max_model_len = max_model_len
        self._max_tokens = max_tokens
        self._given = False

    def look(self, handle: RequestHandle) -> None:
        """Warn if a default cut the answer, unless an earlier answer has warned."""
        if self._given or not handle.cut_by_default():
            return
        self._given = True
        warnings.warn(
            self._message(handle), SamplingParamsWarning, stacklevel=_callers_level()
        )

    def _message(self, handle: RequestHandle) -> str:
        prompt = len(handle.prompt_token_ids)
        params = handle.completions[0].request.params
        new = max(len(each.token_ids) for each in handle.completions)
        if prompt + new >= self._max_model_len:
            why = (
                f"because the context of {self._max_model_len} tokens was full: no "
                "max_tokens was given. Set max_tokens for shorter answers, or create "
                "the Generator with a larger max_model_len"
            )
        elif self._max_tokens and not params.sets_max_tokens:
            why = (
                "the default of max_tokens in vLLM, which LLM keeps. Pass "
                "SamplingParams(max_tokens=…) for longer ones"
            )
        else:
            why = (
                "the default of the model's own generation_config. Pass "
                "SamplingParams.from_model(generator, max_tokens=…) for longer ones"
            )
        return (
            f"An answer was cut after {new} new tokens, {why}. This is said once; "
            'finish_reason is "length" for every answer that is cut.'
        )


def _callers_level() -> int:
    """Return the `stacklevel` of the first frame that is not of this package."""
    package = __name__.partition(".")[0]
    level = 1
    frame: FrameType | None = sys._getframe(level)  # noqa: SLF001 - as `warnings` does
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] != package:
            return level
        frame, level = frame.f_back, level + 1
    return level
