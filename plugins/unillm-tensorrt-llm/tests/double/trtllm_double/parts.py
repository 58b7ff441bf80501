# SPDX-License-Identifier: Apache-2.0

"""Where the modules stand that not all versions have."""

from pathlib import Path

PARTS = Path(__file__).parents[1] / "parts"
