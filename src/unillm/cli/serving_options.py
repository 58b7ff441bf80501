# SPDX-License-Identifier: Apache-2.0

"""Options of the commands that answer for others: a server, and jobs on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from ..distributions import install_plugin
from ..errors import ConfigError
from .options import Option, as_value, parse_object

# ------------------------------------------------------------------ options of answers

_answers = functools.partial(Option, panel="Models and answers")


def _read_modules(texts: list[str]) -> dict[str, str]:
    """Read ``NAME=PATH``, or vLLM's JSON with ``name`` and ``path``."""
    modules: dict[str, str] = {}
    for text in texts:
        if text.startswith("{"):
            found = as_value(text)
            name, path = (
                (found.get("name"), found.get("path"))
                if isinstance(found, dict)
                else (None, None)
            )
        else:
            name, _, path = text.partition("=")
        if not (isinstance(name, str) and name and isinstance(path, str) and path):
            raise ConfigError(f"--lora-modules takes NAME=PATH, got {text!r}.")
        if name in modules:
            raise ConfigError(f"--lora-modules names {name!r} twice. Name it once.")
        modules[name] = path
    return modules


class Answers(TypedDict, total=False):
    """Options for the models that requests name, and for what answers hold."""

    served_model_name: Annotated[
        list[str],
        _answers(
            "Name of the model for clients; may be repeated, the first is in answers.",
            "NAME",
        ),
    ]
    lora_modules: Annotated[
        Mapping[str, str],
        _answers(
            "LoRA adapter that is served as a model of this name; may be repeated.",
            "NAME=PATH",
            read=_read_modules,
        ),
    ]
    override_generation_config: Annotated[
        Mapping[str, Any],
        _answers(
            "Sampling defaults that replace the model's, as a JSON object.",
            "JSON",
            read=parse_object,
        ),
    ]
    response_role: Annotated[
        str, _answers("Role of a chat's answers.", "ROLE", default="assistant")
    ]
    tool_call_parser: Annotated[
        str, _answers("Form of the model's tool calls.", "NAME")
    ]
    reasoning_parser: Annotated[str, _answers("Form of the model's reasoning.", "NAME")]
    enable_prompt_tokens_details: Annotated[
        bool, _answers("Count the prompt tokens that came from a cache.")
    ]
    enable_force_include_usage: Annotated[
        bool, _answers("End every stream with its usage.")
    ]
    return_tokens_as_token_ids: Annotated[
        bool, _answers('Show tokens of log-probabilities as "token_id:123".')
    ]
    sse_keep_alive_interval: Annotated[
        float,
        _answers(
            "Quiet seconds after which a stream sends a comment; 0 for never. "
            "Default: 30.",
            "SECONDS",
        ),
    ]


# ---------------------------------------------------------------- options of a cluster

_ray = functools.partial(Option, panel="More than one machine")


def _read_replicas(texts: list[str]) -> tuple[int, int]:
    """Read ``COUNT`` or ``LEAST:MOST``."""
    least, _, most = texts[-1].partition(":")
    try:
        counts = int(least), int(most or least)
    except ValueError:
        counts = 0, 0
    if not 1 <= counts[0] <= counts[1]:
        raise ConfigError(
            "--replicas takes a count from 1 on, or two such as 1:4, got "
            f"{texts[-1]!r}."
        )
    return counts


def _read_resources(texts: list[str]) -> Any:
    """Read amounts by name, or a list of such objects."""
    value = as_value(texts[-1])
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, dict) or not all(
            isinstance(amount, (int, float)) for amount in each.values()
        ):
            raise ConfigError(
                '--resources takes a JSON object of amounts such as {"GPU": 1}, or a '
                f"list of them, got {texts[-1]!r}."
            )
    return value


class Clustered(TypedDict, total=False):
    """Options of a command that may run on a Ray cluster."""

    ray: Annotated[
        str,
        _ray(
            "Run on the Ray cluster at this address; auto for the cluster of this "
            "machine, local for one that lives as long as the command.",
            "ADDRESS",
        ),
    ]
    replicas: Annotated[
        tuple[int, int],
        _ray(
            "Engines, or the least and the most of them. Default: 1.",
            "COUNT[:MOST]",
            read=_read_replicas,
        ),
    ]
    resources: Annotated[
        Any,
        _ray(
            'Resources of one engine as JSON, such as {"CPU": 2, "GPU": 1}; a list '
            "has one object for each process of an engine that spans machines.",
            "JSON",
            read=_read_resources,
        ),
    ]


def import_ray(clustered: Clustered) -> Any:
    """Return the plugin for Ray.

    Raises:
        ConfigError: It is not installed, or the cluster has no address.
    """
    if "ray" not in clustered:
        raise ConfigError("--replicas and --resources need --ray ADDRESS.")
    try:
        import unillm_ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--ray needs {error.name}. Install it: {install_plugin('ray')}"
        ) from error
    return unillm_ray
