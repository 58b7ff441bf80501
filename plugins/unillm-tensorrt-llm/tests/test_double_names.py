# SPDX-License-Identifier: Apache-2.0

"""The fake's modules, names and signatures against those read from sources.

``facts.json`` names its source. The comparison goes through the fake's public modules;
the differences that remain stand in `EXPLAINED`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from importlib.util import find_spec
from pathlib import PurePosixPath

import pytest
from trtllm_double import names
from trtllm_double.profiles import PROFILES

FACTS = names.facts()
EXPLAINED = {
    ("0.11", "LLM", "__init__"): "0.11.0 takes a path by its notes; the tree of June "
    "2024 takes a configuration",
}
NOT_MADE = {
    "SamplingConfig": "the runners' own; the fake takes its options by name",
}
"""Classes that code outside TensorRT-LLM does not meet."""

CLASSES = [
    (version, name)
    for version, known in FACTS.items()
    for name in known["classes"]
    if name not in NOT_MADE
]


def find(class_name, file):
    """Import a class from the package that its file is in, as users do."""
    path = PurePosixPath(file)
    in_package = path.parent.name in ("hlapi", "llmapi", "runtime")
    folder = path.parent if in_package and path.stem != "llm_utils" else path
    module = ".".join(folder.with_suffix("").parts)
    if path.name in ("builder.py", "modeling_utils.py"):
        # These two are used from the module of the LLM API.
        module = "tensorrt_llm.llmapi" if find_spec("tensorrt_llm.llmapi") else ""
        module = module or "tensorrt_llm.hlapi"
    return getattr(importlib.import_module(module), class_name)


@pytest.mark.parametrize(
    ("version", "name"),
    [each for each in CLASSES if "fields" in FACTS[each[0]]["classes"][each[1]]],
)
def test_fields_are_those_of_the_sources(install, version, name):
    install(version)
    known = FACTS[version]["classes"][name]

    fields = [
        each.name + shown_default(each)
        for each in dataclasses.fields(find(name, known["file"]))
    ]

    assert fields == known["fields"]


def shown_default(field):
    if field.default is not dataclasses.MISSING:
        return f"={field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f"={field.default_factory.__name__}()"
    return ""


@pytest.mark.parametrize(
    ("version", "name", "method"),
    [
        (version, name, method)
        for version, name in CLASSES
        for method in FACTS[version]["classes"][name].get("signatures", ())
        if (version, name, method) not in EXPLAINED
    ],
)
def test_signatures_are_those_of_the_sources(install, version, name, method):
    install(version)
    known = FACTS[version]["classes"][name]

    theirs = inspect.signature(getattr(find(name, known["file"]), method))

    shown = [str(each) for each in theirs.parameters.values() if each.name != "self"]
    assert ", ".join(shown) == known["signatures"][method].replace("*, ", "")


@pytest.mark.parametrize("version", FACTS)
def test_results_have_no_member_that_the_sources_lack(install, version):
    install(version)
    executor = importlib.import_module("tensorrt_llm.executor")
    known = FACTS[version]["classes"]["GenerationResult"]["members"]

    members = {name for name in vars_of(executor.GenerationResult) if name[0] != "_"}

    assert members <= set(known)


def vars_of(kind):
    return {name for each in kind.__mro__[:-1] for name in vars(each)}


@pytest.mark.parametrize("version", FACTS)
def test_the_llm_class_is_closed_by_the_method_of_the_sources(install, version):
    install(version)
    known = FACTS[version]["classes"]["LLM"]
    members = vars_of(find("LLM", known["file"]))

    closing = members & {"shutdown", "_shutdown"}

    assert closing == {"shutdown", "_shutdown"} & set(known["members"])
    assert {name for name in members if name[0] != "_"} <= set(known["members"])


# --------------------------------------------------------------------------- modules


@pytest.mark.parametrize("version", PROFILES)
def test_a_version_has_one_module_of_the_llm_api(install, version):
    """``hlapi`` up to 0.14 and ``llmapi`` from 0.15 on (§1.2)."""
    install(version)
    is_old = version in ("0.11", "0.12", "0.13", "0.14")

    found = [name for name in ("hlapi", "llmapi") if find_spec(f"tensorrt_llm.{name}")]

    assert found == (["hlapi"] if is_old else ["llmapi"])


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.12", None),
        ("0.17", []),
        ("1.0", []),
        ("1.2", []),
        ("1.3rc20", []),
        ("1.3rc24", ["penalties", "token_ban"]),
        ("1.4", ["penalties", "token_ban"]),
        ("main", ["penalties", "seed_manager", "token_ban"]),
    ],
)
def test_the_modules_of_the_sampler_tell_what_it_honours(install, version, expected):
    """They can be found exactly where they exist (§11)."""
    install(version)
    sampler = "tensorrt_llm._torch.pyexecutor.sampler"
    if expected is None:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(sampler)
        return
    importlib.import_module(sampler)

    found = []
    for name in ("penalties", "seed_manager", "token_ban"):
        try:
            importlib.import_module(f"{sampler}.{name}")
        except ModuleNotFoundError:
            continue
        found.append(name)

    assert found == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.0", {"enable_trtllm_sampler", "enable_mixed_sampler"}),
        ("1.1rc0", {"use_torch_sampler"}),
        ("1.1", {"sampler_type"}),
        ("1.4", {"sampler_type"}),
    ],
)
def test_the_arguments_name_the_option_of_the_sampler(install, version, expected):
    """``TorchLlmArgs.model_fields`` (§4.1, §11)."""
    install(version)
    llmapi = importlib.import_module("tensorrt_llm.llmapi")

    options = {name for name in llmapi.TorchLlmArgs.model_fields if "sampler" in name}

    assert options == expected


def test_every_difference_is_explained():
    """`EXPLAINED` and `NOT_MADE` name nothing that the facts lack."""
    for version, name, method in EXPLAINED:
        assert method in FACTS[version]["classes"][name]["signatures"]
    for name in NOT_MADE:
        assert any(name in known["classes"] for known in FACTS.values())
