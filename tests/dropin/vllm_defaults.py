# SPDX-License-Identifier: Apache-2.0

"""Defaults of the installed vLLM's ``EngineArgs`` as JSON values.

``python tests/dropin/vllm_defaults.py > src/unillm/vllm_api/vllm_defaults.json``
records them. A configuration object and a set are recorded as an empty value of JSON,
an enumeration as its value.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys


def recordable(default):
    if dataclasses.is_dataclass(default):
        return {}
    if isinstance(default, set):
        return sorted(default)
    return default.value if isinstance(default, enum.Enum) else default


def vllm_defaults():
    from vllm import EngineArgs

    args = EngineArgs(model="")
    names = sorted({field.name for field in dataclasses.fields(args)} - {"model"})
    return {name: recordable(getattr(args, name)) for name in names}


if __name__ == "__main__":
    json.dump(vllm_defaults(), sys.stdout, indent=1)
    sys.stdout.write("\n")
