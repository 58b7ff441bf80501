# SPDX-License-Identifier: Apache-2.0

"""Types of the arguments that the calls of `Generator` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from ..lora import LoRALike
from ..params import SamplingParams

ParamsLike = SamplingParams | Sequence[SamplingParams] | None
"""One for all prompts, one for each, or `None` for the model's own defaults."""

PriorityLike = int | Sequence[int]
"""One for all prompts, or one for each."""

OnError = Literal["raise", "return"]
"""Whether a list call raises the errors of its requests or returns them."""

UseTqdm = bool | Callable[..., Any]
"""Whether to show a progress bar, or a callable that makes one as `tqdm` does."""


class ListOptions(TypedDict, total=False):
    """Keywords of a list call; `Generator.generate` describes each."""

    lora_request: LoRALike
    priority: PriorityLike
    timeout_s: float | None


class GenerateOptions(ListOptions, total=False):
    """Keywords of a list call that blocks its thread."""

    use_tqdm: UseTqdm


class ChatOptions(GenerateOptions, total=False):
    """Keywords of `Generator.chat`, which describes each."""

    chat_template: str | None
    chat_template_content_format: str
    add_generation_prompt: bool
    continue_final_message: bool
    tools: Sequence[Any] | None
    chat_template_kwargs: Mapping[str, Any] | None
