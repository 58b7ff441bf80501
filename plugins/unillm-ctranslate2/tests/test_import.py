# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys


def test_listing_the_backend_imports_no_engine():
    code = (
        "import sys, unillm\n"
        "[status] = [s for s in unillm.backends() if s.name == 'ctranslate2']\n"
        "print(status.available, status.distribution)\n"
        "print({'ctranslate2', 'torch'} & sys.modules.keys())"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert run.stdout.splitlines() == ["True unillm-sdk-ctranslate2 0.1.0", "set()"]
