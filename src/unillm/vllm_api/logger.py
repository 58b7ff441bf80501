# SPDX-License-Identifier: Apache-2.0

"""``vllm.logger``."""

from __future__ import annotations

import logging


def init_logger(name: str) -> logging.Logger:
    """Return the logger of that name."""
    return logging.getLogger(name)
