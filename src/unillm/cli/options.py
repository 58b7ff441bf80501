# SPDX-License-Identifier: Apache-2.0

"""Options that several commands have. Each one is declared here, once.

A group of options is a `TypedDict`: its keys are fields of `EngineConfig` or of
`SamplingParams`, each with its help. A command takes a group as one parameter;
`commands.command` makes an option of each key and passes a dict of the given ones.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import attrs
import typer

import unillm

from ..distributions import install_plugin
from ..errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and the log on stderr.")
]

_MODEL = "Directory, hub id, or the bundled unillm/tiny."
Model = Annotated[str, typer.Option("--model", "-m", help=_MODEL)]
ModelArgument = Annotated[str, typer.Argument(help=_MODEL)]


@attrs.frozen
class Option:
    """The option of the command line that sets one key of a group."""

    help: str
    metavar: str | None = None
    panel: str | None = None
    """Title of its box in the help."""
    flag: str | None = None
    """`None` for the key with dashes."""
    default: Any = None
    read: Callable[[list[str]], Any] | None = None
    """Makes the value from the given texts; without it, Typer reads the key's type."""


class Without:
    """Keys of a group that a command lacks, and other defaults for the rest.

    It annotates a parameter: ``engine: Annotated[Loading, Without("tokenizer")]``.
    """

    def __init__(self, *names: str, **defaults: Any) -> None:
        self.names = names
        self.defaults = defaults


def parse_key_values(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; each value is JSON, or else text.

    Raises:
        ConfigError: A pair has no ``=`` or no key, or a key is repeated.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option takes KEY=VALUE, got {pair!r}.")
        if key in options:
            raise ConfigError(f"--option {key} is given twice. Give it once.")
        options[key] = as_value(value)
    return options


def parse_object(texts: list[str]) -> dict[str, Any]:
    """Read a JSON object; of several texts, the last.

    Raises:
        ConfigError: The text is not a JSON object.
    """
    value = as_value(texts[-1])
    if not isinstance(value, dict):
        raise ConfigError(f"The option takes a JSON object, got {texts[-1]!r}.")
    return value


def as_value(text: str) -> Any:
    """Return the JSON value of *text*, or *text* itself if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# ------------------------------------------------------------------ options of engines

_engine = functools.partial(Option, panel="Engine")
DTYPE = "Type of the weights: auto (the checkpoint's), float32, bfloat16 or float16."

PYTHON = (
    "Interpreter of another environment, which has unillm and the engine: its path, or "
    "its name in `unillm env list`."
)


class Reading(TypedDict, total=False):
    """Options for reading a model; these and the next are fields of `EngineConfig`."""

    backend: Annotated[
        str,
        _engine(
            "Engine to use. Default: UNILLM_BACKEND of the environment, or else the "
            "best that can run here. `unillm backends` lists all.",
            "NAME",
        ),
    ]
    python: Annotated[str, _engine(PYTHON, "PATH")]
    revision: Annotated[
        str, _engine("Branch, tag or commit of a model of the hub.", "NAME")
    ]
    dtype: Annotated[str, _engine(DTYPE, "NAME", default="auto")]
    tokenizer: Annotated[
        str, _engine("Directory or hub id of another tokenizer.", "PATH")
    ]
    trust_remote_code: Annotated[
        bool, _engine("Run Python code of the checkpoint. Read it first.")
    ]


class Loading(Reading, total=False):
    """Options for loading a model."""

    max_model_len: Annotated[
        int, _engine("Prompt and new tokens of a request together.", "TOKENS")
    ]
    max_num_seqs: Annotated[int, _engine("Requests in one step.", "COUNT")]
    max_num_batched_tokens: Annotated[
        int, _engine("Prompt tokens in one step.", "TOKENS")
    ]
    backend_options: Annotated[
        Mapping[str, Any],
        _engine(
            "Option that only this backend has; may be repeated.",
            "KEY=VALUE",
            flag="--option",
            read=parse_key_values,
        ),
    ]


class Building(Loading, total=False):
    """Options for preparing an engine."""

    quantization: Annotated[
        str, _engine("Format of the weights. Default: the checkpoint's.", "NAME")
    ]
    tensor_parallel_size: Annotated[
        int, _engine("Devices that share each layer.", "COUNT")
    ]


def _read_template(texts: list[str]) -> str:
    return read_text(texts[-1], "--chat-template")


class Serving(Building, total=False):
    """Options for a generator that others use."""

    chat_template: Annotated[
        str,
        _engine(
            "Chat template to use: a file, or its text.", "PATH", read=_read_template
        ),
    ]
    pipeline_parallel_size: Annotated[
        int, _engine("Groups of devices that share the layers.", "COUNT")
    ]
    data_parallel_size: Annotated[
        int,
        _engine("Replicas of the engine, each with GPUs or cores of its own.", "COUNT"),
    ]
    gpu_memory_utilization: Annotated[
        float, _engine("Share of a device's memory that the engine may take.", "SHARE")
    ]
    kv_cache_dtype: Annotated[str, _engine("Type of keys and values.", "NAME")]
    max_logprobs: Annotated[
        int, _engine("Most log-probabilities of a token; -1 for no limit.", "COUNT")
    ]
    seed: Annotated[int, _engine("Draws the seeds of requests without one.", "SEED")]
    step_timeout_s: Annotated[
        float,
        _engine("Seconds after which an engine without an answer is dead.", "SECONDS"),
    ]
    strict_length: Annotated[
        bool, _engine("Refuse max_tokens over the context instead of fitting it.")
    ]
    strict_generation_config: Annotated[
        bool, _engine("Refuse a model with generation settings of no effect here.")
    ]
    enforce_eager: Annotated[
        bool, _engine("Compile nothing and record no CUDA graphs.")
    ]
    enable_prefix_caching: Annotated[
        bool, _engine("Reuse the cache of prompts that begin alike.")
    ]
    speculative_config: Annotated[
        Mapping[str, Any],
        _engine("Speculative decoding as a JSON object.", "JSON", read=parse_object),
    ]
    enable_lora: Annotated[bool, _engine("Allow LoRA adapters.")]
    max_loras: Annotated[int, _engine("Adapters in one step.", "COUNT")]
    max_lora_rank: Annotated[int, _engine("Largest rank of an adapter.", "RANK")]


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


# ----------------------------------------------------------------- options of sampling

sampling = functools.partial(
    Option, panel="Sampling (each option overrides one default of the model)"
)


class Sampling(TypedDict, total=False):
    """Options for generating; fields of `SamplingParams`."""

    temperature: Annotated[float, sampling("0 is greedy; at most 2.")]
    top_p: Annotated[
        float, sampling("Keep the fewest tokens that have this probability together.")
    ]
    top_k: Annotated[int, sampling("Keep the k most probable tokens; 0 keeps all.")]
    min_p: Annotated[
        float, sampling("Drop tokens below this share of the most probable one.")
    ]
    seed: Annotated[int, sampling("Make the completion of each prompt reproducible.")]
    max_tokens: Annotated[int, sampling("Generate at most this many tokens.")]
    min_tokens: Annotated[
        int,
        sampling(
            "Generate at least this many tokens before EOS or a stop string may end "
            "the completion."
        ),
    ]
    stop: Annotated[
        list[str], sampling("End a completion at this text; may be repeated.", "TEXT")
    ]
    ignore_eos: Annotated[bool, sampling("Continue after an EOS token.")]
    repetition_penalty: Annotated[
        float, sampling("Above 1: make tokens that occurred less probable.")
    ]
    presence_penalty: Annotated[
        float, sampling("Subtract this from the logit of generated tokens.")
    ]
    frequency_penalty: Annotated[
        float, sampling("Subtract this once for each occurrence of the token.")
    ]
    truncate_prompt_tokens: Annotated[
        int, sampling("Keep the last k tokens of a prompt; -1 keeps what fits.")
    ]


def check_sampling(given: Mapping[str, Any]) -> None:
    """Refuse impossible params before a model is loaded.

    The model's defaults are not known yet, so `max_tokens` stays open.
    """
    with warnings.catch_warnings():  # the request's params repeat them
        warnings.simplefilter("ignore")
        unillm.SamplingParams(**{"max_tokens": None, **given})


def read_text(given: str, option: str) -> str:
    """Return the text of a template or schema: of a file, or the text itself."""
    if "{" in given or "\n" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{option} must be a file or the text itself: {error}."
        ) from error
