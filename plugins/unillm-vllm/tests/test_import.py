# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys


def test_listing_the_backend_imports_no_vllm():
    code = (
        "import sys, unillm\n"
        "[status] = [s for s in unillm.backends() if s.name == 'vllm']\n"
        "print(status.available, status.distribution, 'vllm' in sys.modules)"
    )

    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert run.stdout == "True unillm-sdk-vllm 0.1.0 False\n"
