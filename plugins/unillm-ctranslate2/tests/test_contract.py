# SPDX-License-Identifier: Apache-2.0

"""The contract on real CTranslate2."""

from __future__ import annotations

from unillm.testing.contract import BackendContract


class TestCTranslate2(BackendContract):
    backend = "ctranslate2"
    options = {"dtype": "float32"}
    waivers = {
        "R3": "CTranslate2 feeds a survivor's tokens again one a step, so a stop costs "
        "more than a short wait; who waits is let in after scheduling.policy.PATIENCE"
    }
