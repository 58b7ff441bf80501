# SPDX-License-Identifier: Apache-2.0

"""`BatchReport`: what a job has done."""

from __future__ import annotations

from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class BatchReport:
    """The result of a job. Times and tokens are those of this call alone."""

    output: Path
    num_lines: int
    """Lines of the input, and of the output."""
    num_failed: int
    """Lines of the output that have an error instead of an answer."""
    failed: Path | None = None
    """File with the failed lines of the input; `None` if none failed."""
    num_resumed: int = 0
    """Lines that earlier calls had finished."""
    num_copied: int = 0
    """Lines that have the answer of an equal one."""
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    seconds: float = 0.0
    """From the first line to the finished output; without loading the model."""
