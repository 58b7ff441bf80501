# SPDX-License-Identifier: Apache-2.0

"""Options that several commands have. Each one is declared here, once.

A group of options is a `TypedDict`: its keys are fields of `EngineConfig` or of
`SamplingParams`, each with its help. A command takes a group as one parameter;
`commands.command` makes an option of each key and passes a dict of the given ones.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import attrs
import typer

import unillm

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


def _read_template(texts: list[str]) -> str:
    return read_text(texts[-1], "--chat-template")


_more = functools.partial(Option, panel="Engine, needed less often")


class Engine(Reading, total=False):
    """Options for loading a model, the same on every command that loads one."""

    max_model_len: Annotated[
        int,
        _engine("Limit prompt and new tokens of a request together.", "TOKENS"),
    ]
    max_num_seqs: Annotated[
        int, _engine("Compute at most this many requests in one step.", "COUNT")
    ]
    quantization: Annotated[
        str,
        _engine("Load weights in this format. Default: the checkpoint's.", "NAME"),
    ]
    gpu_memory_utilization: Annotated[
        float, _engine("Let the engine take this share of a device's memory.", "SHARE")
    ]
    tensor_parallel_size: Annotated[
        int, _engine("Share each layer between this many devices.", "COUNT")
    ]
    backend_options: Annotated[
        Mapping[str, Any],
        _engine(
            "Set an option that only this backend has; may be repeated.",
            "KEY=VALUE",
            flag="--option",
            read=parse_key_values,
        ),
    ]
    chat_template: Annotated[
        str,
        _more(
            "Use this chat template instead of the model's: a file, or its text.",
            "PATH",
            read=_read_template,
        ),
    ]
    max_num_batched_tokens: Annotated[
        int, _more("Compute at most this many prompt tokens in one step.", "TOKENS")
    ]
    pipeline_parallel_size: Annotated[
        int, _more("Spread the layers over this many groups of devices.", "COUNT")
    ]
    data_parallel_size: Annotated[
        int,
        _more("Run this many replicas, each with GPUs or cores of its own.", "COUNT"),
    ]
    kv_cache_dtype: Annotated[
        str, _more("Store keys and values of the cache in this type.", "NAME")
    ]
    max_logprobs: Annotated[
        int,
        _more(
            "Let a request ask for at most this many log-probabilities of a token; "
            "-1 for no limit.",
            "COUNT",
        ),
    ]
    seed: Annotated[
        int, _more("Draw the seeds of requests without one from this.", "SEED")
    ]
    step_timeout_s: Annotated[
        float,
        _more("Count an engine that does not answer for so long as dead.", "SECONDS"),
    ]
    strict_length: Annotated[
        bool, _more("Refuse max_tokens over the context instead of fitting it.")
    ]
    strict_generation_config: Annotated[
        bool, _more("Refuse a model with generation settings of no effect here.")
    ]
    enforce_eager: Annotated[bool, _more("Compile nothing and record no CUDA graphs.")]
    enable_prefix_caching: Annotated[
        bool, _more("Reuse the cache of prompts that begin alike.")
    ]
    speculative_config: Annotated[
        Mapping[str, Any],
        _more(
            "Decode speculatively, as this JSON object says.", "JSON", read=parse_object
        ),
    ]
    enable_lora: Annotated[bool, _more("Let requests name LoRA adapters.")]
    max_loras: Annotated[
        int, _more("Compute at most this many adapters in one step.", "COUNT")
    ]
    max_lora_rank: Annotated[
        int, _more("Refuse adapters of a higher rank than this.", "RANK")
    ]


# ----------------------------------------------------------------- options of sampling

sampling = functools.partial(
    Option, panel="Sampling (each option overrides one default of the model)"
)


class Sampling(TypedDict, total=False):
    """Options for generating; fields of `SamplingParams`."""

    temperature: Annotated[
        float,
        sampling(
            "Divide the logits by this before a token is drawn: 0 takes the most "
            "probable one, higher values up to 2 draw more evenly."
        ),
    ]
    top_p: Annotated[
        float,
        sampling("Draw from the fewest tokens with this probability together."),
    ]
    top_k: Annotated[int, sampling("Draw from the k most probable tokens; 0 for all.")]
    min_p: Annotated[
        float, sampling("Draw no token below this share of the most probable one.")
    ]
    seed: Annotated[int, sampling("Draw the same completion for the same seed.")]
    max_tokens: Annotated[int, sampling("Generate at most this many new tokens.")]
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
    ignore_eos: Annotated[bool, sampling("Do not end a completion at an EOS token.")]
    repetition_penalty: Annotated[
        float,
        sampling("Above 1: make tokens that occurred less probable."),
    ]
    presence_penalty: Annotated[
        float,
        sampling("Subtract this from the logits of generated tokens."),
    ]
    frequency_penalty: Annotated[
        float,
        sampling("Subtract this once for each time a token was generated."),
    ]
    truncate_prompt_tokens: Annotated[
        int, sampling("Cut a prompt to its last k tokens; -1 cuts it to what fits.")
    ]


_answer = functools.partial(Option, panel="Form of the answer")


class Constraint(TypedDict, total=False):
    """Options for the form of the answers, and for the adapter that gives them."""

    schema: Annotated[
        str,
        _answer(
            "Force each answer to be JSON of this schema: a file, or its text.", "JSON"
        ),
    ]
    lora: Annotated[
        str,
        _answer("Compute every answer with this LoRA adapter, a directory.", "PATH"),
    ]


def structure_of(given: Constraint) -> dict[str, Any]:
    """Return the field of `SamplingParams` that a schema sets; none without one.

    Raises:
        ConfigError: The schema is not a JSON object, or cannot be read.
    """
    if "schema" not in given:
        return {}
    schema = parse_object([read_text(given["schema"], "--schema")])
    return {"structured_outputs": unillm.StructuredOutputs(json=schema)}


def adapter_of(given: Constraint, engine: Engine) -> unillm.LoRARequest | None:
    """Return the adapter of ``--lora``, for which the engine is set up."""
    if "lora" not in given:
        return None
    engine.setdefault("enable_lora", True)
    path = Path(os.path.expanduser(given["lora"]))
    return unillm.LoRARequest(path.name or "adapter", 1, str(path.absolute()))


def check_sampling(given: Mapping[str, Any]) -> None:
    """Refuse impossible params before a model is loaded."""
    with warnings.catch_warnings():  # the request's params repeat them
        warnings.simplefilter("ignore")
        unillm.SamplingParams(**given)


def read_text(given: str, option: str) -> str:
    """Return the text of a template or schema: of a file, or the text itself."""
    if "{" in given or "\n" in given:
        return given
    try:
        return Path(os.path.expanduser(given)).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{option} {given} cannot be read: {reason}. Give a file, or the text "
            "itself, which is known by a brace or a line break in it."
        ) from error
