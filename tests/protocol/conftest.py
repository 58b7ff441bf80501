# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("prometheus_client") is None:
    collect_ignore_glob = ["test_*.py"]  # the extra `server` is not installed
