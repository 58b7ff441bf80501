# SPDX-License-Identifier: Apache-2.0

"""Names, kinds and defaults of TensorRT-LLM's classes, by version.

Up to 0.17 they come from ``facts.json``. Later ones are those of ``sampling_params.py``
in 1.0.0rc4 and in mid-2026, and of the documentation. Where a class of a version was
not seen, it has the names of the version before.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
from pathlib import Path

from packaging.version import Version

from .profiles import current

FACTS = Path(__file__).parents[2] / "facts.json"


class Opaque:
    """A default that is an object of TensorRT-LLM's own."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self):
        return self.text


@functools.cache
def facts() -> dict:
    return json.loads(FACTS.read_text("utf-8"))["versions"]


_ADDED = {
    "SamplingParams": (
        ("0.21", ["min_p=None", "logprobs=None", "prompt_logprobs=None"]),
        (
            "1.0",
            [
                "logits_processor=None",
                "apply_batched_logits_processor=False",
                "beam_width_array=None",
            ],
        ),
        (
            "1.3.0rc20",
            [
                "prompt_ignore_length=None",
                "logprobs_mode='raw'",
                "logprobs_simple_format=False",
                "prompt_logprobs_simple_format=False",
            ],
        ),
    ),
    "CompletionOutput": (("0.21", ["prompt_logprobs=list()"]),),
}
"""Fields after 0.17, by the version of the first profile that has them. Those of 0.21
were seen in 1.0.0rc4 alone, so 0.18 to 0.21 are open (§1.3)."""

_GONE = {
    "SamplingParams": (
        (
            "1.0",
            {
                *("max_new_tokens", "random_seed", "min_length", "beam_width"),
                *("num_return_sequences", "external_draft_tokens_config"),
                "logits_post_processor_name",
            },
        ),
    ),
}
"""And the fields that are gone, by the first profile without them."""

_INPUTS = "inputs, sampling_params=None, "
_MORE = "lora_request=None, prompt_adapter_request=None, "
_LAST = "kv_cache_retention_config=None, disaggregated_params=None, "
_LATER = {
    ("LLM", "__init__"): (
        "model, tokenizer=None, tokenizer_mode='auto', skip_tokenizer_init=False, "
        "trust_remote_code=False, tensor_parallel_size=1, dtype='auto', revision=None, "
        "tokenizer_revision=None, **kwargs"
    ),
    ("LLM", "generate"): (
        f"{_INPUTS}use_tqdm=True, {_MORE}{_LAST}scheduling_params=None, cache_salt=None"
    ),
    ("LLM", "generate_async"): (
        f"{_INPUTS}{_MORE}streaming=False, {_LAST}trace_headers=None, "
        "_postproc_params=None, scheduling_params=None, cache_salt=None"
    ),
}
"""Signatures from 0.18 on (§2.1, §2.3)."""

LATER_THAN_SEEN = ("0.11", "LLM", "__init__")
"""0.11.0 takes a path by its notes; the tree of June 2024 takes a configuration."""


def fields(class_name: str) -> list[str] | None:
    """Return ``name=default`` of each field; `None` if a version has no such class."""
    profile = current()
    if profile.facts is not None:
        found = facts()[profile.facts]["classes"].get(class_name)
        return None if found is None else found["fields"]
    version = Version(profile.version)
    names = list(facts()["0.17"]["classes"][class_name]["fields"])
    for since, added in _ADDED.get(class_name, ()):
        names += added if version >= Version(since) else []
    gone = {
        name
        for since, lost in _GONE.get(class_name, ())
        for name in lost
        if version >= Version(since)
    }
    return [each for each in names if each.partition("=")[0] not in gone]


def make_dataclass(class_name: str, *, bases=(), **options):
    """Make a class with the fields of the current version, or return `None`."""
    listed = fields(class_name)
    if listed is None:
        return None
    made = []
    for each in listed:
        name, has_default, text = each.partition("=")
        if not has_default:
            made.append((name, object))
        elif text in ("list()", "dict()"):
            factory = list if text == "list()" else dict
            made.append((name, object, dataclasses.field(default_factory=factory)))
        else:
            made.append((name, object, dataclasses.field(default=_value(text))))
    return dataclasses.make_dataclass(class_name, made, bases=bases, **options)


def signature(class_name: str, method: str) -> inspect.Signature:
    """Return the signature of a method, ``self`` or ``cls`` first."""
    profile = current()
    known = profile.facts or "0.17"
    text = facts()[known]["classes"][class_name]["signatures"][method]
    if profile.facts is None:
        text = _LATER.get((class_name, method), text)
        if profile.priority and class_name == "LLM" and method != "__init__":
            text += ", conversation_params=None, priority=0.5"
    elif (known, class_name, method) == LATER_THAN_SEEN:
        text = facts()["0.12"]["classes"][class_name]["signatures"][method]
    return inspect.Signature(
        [_parameter("self", inspect.Parameter.POSITIONAL_ONLY), *_parameters(text)]
    )


def declared(class_name: str, function):
    """Give a method the signature of the current version, and enforce it.

    *function* is called with all arguments by name, so it takes what it needs of them
    and ``**others``.
    """
    theirs = signature(class_name, function.__name__)

    @functools.wraps(function)
    def method(*given, **named):
        bound = theirs.bind(*given, **named)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        rest = arguments.pop("kwargs", {})
        return function(arguments.pop("self"), **arguments, **rest)

    method.__signature__ = theirs
    return method


def _parameters(text: str) -> list[inspect.Parameter]:
    arguments = ast.parse(f"def f({text}): pass").body[0].args
    required = len(arguments.args) - len(arguments.defaults)
    made = [
        _parameter(
            each.arg,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            None if at < required else arguments.defaults[at - required],
        )
        for at, each in enumerate(arguments.args)
    ]
    made += [
        _parameter(each.arg, inspect.Parameter.KEYWORD_ONLY, default)
        for each, default in zip(
            arguments.kwonlyargs, arguments.kw_defaults, strict=True
        )
    ]
    if arguments.kwarg is not None:
        made.append(_parameter(arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return made


def _parameter(name, kind, default=None) -> inspect.Parameter:
    if default is None:
        return inspect.Parameter(name, kind)
    return inspect.Parameter(name, kind, default=_value(ast.unparse(default)))


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except ValueError:
        return Opaque(text)
