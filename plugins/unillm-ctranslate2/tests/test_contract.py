# SPDX-License-Identifier: Apache-2.0

"""The contract on real CTranslate2."""

from __future__ import annotations

from unillm.testing.contract import BackendContract


class TestCTranslate2(BackendContract):
    backend = "ctranslate2"
    options = {"dtype": "float32"}
