# SPDX-License-Identifier: Apache-2.0

"""The page on remote engines has the table of fields that the endpoints declare."""

from __future__ import annotations

from pathlib import Path

import pytest
from unillm_remote import RemoteBackend
from unillm_remote._endpoints.completions import UnillmCompletions, VllmCompletions
from unillm_remote._endpoints.generate import VllmGenerate
from unillm_remote._endpoints.llamacpp import LlamaCppCompletion
from unillm_remote._endpoints.sglang import SglangGenerate
from unillm_remote._endpoints.trtllm import TrtllmCompletions

from unillm.backend import ASPECTS, FEATURES, SAMPLING_FIELDS, Support

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "remote.md"
ENDPOINTS = (
    UnillmCompletions,
    VllmGenerate,
    VllmCompletions,
    SglangGenerate,
    TrtllmCompletions,
    LlamaCppCompletion,
)
WORDS = {
    Support.NATIVE: "yes",
    Support.EMULATED: "emulated",
    Support.UNSUPPORTED: "refused",
}


def table():
    """The table, without fields that every server honours, and its reasons."""
    own = RemoteBackend.capabilities
    reasons = []
    kinds = [f"{each.kind} `{each.path}`" for each in ENDPOINTS]
    lines = [f"| field | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    rows = {}
    for name in sorted(SAMPLING_FIELDS | FEATURES | ASPECTS.keys()):
        cells = []
        for each in ENDPOINTS:
            capability = own.refined(each.capabilities).of(name)
            word = WORDS[capability.support]
            if capability.reason:
                if capability.reason not in reasons:
                    reasons.append(capability.reason)
                word += f" ({reasons.index(capability.reason) + 1})"
            cells.append(word)
        rows[name] = cells
        # An aspect without a row has that of its field.
        if set(cells) != {"yes"} and cells != rows.get(name.rpartition(".")[0]):
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    numbered = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *numbered])


@pytest.mark.skipif(not PAGE.exists(), reason="the pages are not beside the plugin")
def test_the_page_has_the_table_of_fields():
    assert table() in PAGE.read_text()


def test_every_reason_ends_without_a_full_stop():
    reasons = table().splitlines()
    assert not [line for line in reasons if line.endswith(".")]
