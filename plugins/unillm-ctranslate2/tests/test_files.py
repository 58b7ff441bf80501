# SPDX-License-Identifier: Apache-2.0

"""Files of a checkpoint that are not what they claim, before a model is converted."""

from __future__ import annotations

from unillm.testing.files import BrokenFiles


class TestCTranslate2(BrokenFiles):
    backend = "ctranslate2"
    options = {"dtype": "float32"}
