# SPDX-License-Identifier: Apache-2.0

"""``vllm.utils``; `FlexibleArgumentParser` is here too, where it once was in vLLM."""

from __future__ import annotations

from .argparse_utils import FlexibleArgumentParser

__all__ = ["FlexibleArgumentParser"]
