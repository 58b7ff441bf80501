# SPDX-License-Identifier: Apache-2.0

"""``tokenization_kwargs`` of vLLM's calls: what they change, and what changes nothing.

References:
    ``TokenizeParams.with_kwargs``, vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedParameterError
from ..text.prompts import RenderedText, as_prompts

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "do_lower_case": (None, False),
    "max_length": (None,),
    "needs_detokenization": (None, False, True),
    "pad_prompt_tokens": (None,),
    "padding": (None, False, "do_not_pad"),
    "truncation": (None, False, "do_not_truncate"),
    "truncation_side": (None, "left"),
}
"""Arguments that are taken with these values, which change no token."""


def as_changes(given: Any, *, special_tokens: bool) -> dict[str, Any]:
    """Return the fields of `SamplingParams` that the arguments change.

    Args:
        given: ``tokenization_kwargs`` of a call.
        special_tokens: Whether ``add_special_tokens=True`` is honoured; False is.

    Raises:
        UnsupportedParameterError: An argument would change the tokens in a way that is
            not available.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _refuse(f"must be a dict or None, got {given!r}.", given)
    arguments = dict(given)
    changes = {}
    if "truncate_prompt_tokens" in arguments:
        changes["truncate_prompt_tokens"] = arguments.pop("truncate_prompt_tokens")
    added = arguments.pop("add_special_tokens", None)
    if added is not None and (not isinstance(added, bool) or added > special_tokens):
        arguments["add_special_tokens"] = added
    for name, value in arguments.items():
        simple = value is None or isinstance(value, (str, bool))
        if not (simple and value in _NEUTRAL.get(name, ())):
            raise _refuse(
                f"has {name}={value!r}, which cannot be honoured; it takes "
                "'truncate_prompt_tokens' and 'add_special_tokens'. To tokenise in "
                'another way, pass {"prompt_token_ids": ids}.',
                given,
            )
    return changes


def with_special_tokens(prompts: Any, given: Any) -> Any:
    """Return the prompts, as texts without special tokens where the call says so."""
    if given is None or given.get("add_special_tokens") is not False:
        return prompts
    return [_without(prompt) for prompt in as_prompts(prompts)]


def _without(prompt: Any) -> Any:
    if isinstance(prompt, Mapping) and set(prompt) == {"prompt"}:
        prompt = prompt["prompt"]
    return RenderedText(prompt) if isinstance(prompt, str) else prompt


def _refuse(message: str, value: Any) -> UnsupportedParameterError:
    return UnsupportedParameterError(
        f"tokenization_kwargs {message}", parameter="tokenization_kwargs", value=value
    )
