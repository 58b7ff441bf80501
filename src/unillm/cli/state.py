# SPDX-License-Identifier: Apache-2.0

"""Files that outlive a chat, in ``unillm`` of ``XDG_STATE_HOME``."""

from __future__ import annotations

import os
from pathlib import Path


def history_file() -> Path | None:
    """Return the file with the messages of earlier chats; `None` without a home."""
    folder = _folder()
    return None if folder is None else folder / "chat-history"


def rescue_file() -> Path | None:
    """Return the file for the conversation of an engine that died."""
    folder = _folder()
    return None if folder is None else folder / "last-chat.jsonl"


def _folder() -> Path | None:
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        folder = base if base.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return folder / "unillm"
