# SPDX-License-Identifier: Apache-2.0

"""OpenAI's specification as a judge of bodies.

The document is data that this repository does not hold. It is read from the path in
``UNILLM_OPENAI_SPEC``, or from ``shared/facts/openai.yaml`` beside the checkout.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import jsonschema
import pytest
import yaml

BESIDE = Path(__file__).parents[2] / "shared/facts/openai.yaml"


@functools.cache
def components():
    path = Path(os.environ.get("UNILLM_OPENAI_SPEC", BESIDE))
    if not path.is_file():
        pytest.skip(
            f"OpenAI's specification is not at {path}; set UNILLM_OPENAI_SPEC to its "
            "openapi.yaml"
        )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return with_nulls(yaml.load(path.read_text("utf-8"), loader)["components"])


def with_nulls(value):
    """Write OpenAPI 3.0's ``nullable``, which the document still has, as a type."""
    if isinstance(value, list):
        return [with_nulls(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: with_nulls(each) for key, each in value.items()}
    if found.pop("nullable", None) is True:
        return {"anyOf": [found, {"type": "null"}]}
    return found


@functools.cache
def validator(name):
    schema = {"$ref": f"#/components/schemas/{name}", "components": components()}
    return jsonschema.Draft202012Validator(schema)


def check(body, name):
    """Assert that a body is what the specification calls *name*."""
    errors = [
        f"{error.json_path}: {error.message[:200]}"
        for found in validator(name).iter_errors(body)
        for error in (jsonschema.exceptions.best_match([found]),)
    ]
    assert not errors, errors
