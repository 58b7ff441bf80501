# SPDX-License-Identifier: Apache-2.0

"""Model directories that try to run code; CTranslate2 gets a loaded model."""

from __future__ import annotations

from unillm.testing.hostile import HostileDirectories


class TestCTranslate2(HostileDirectories):
    backend = "ctranslate2"
    options = {"dtype": "float32"}
