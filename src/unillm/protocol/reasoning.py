# SPDX-License-Identifier: Apache-2.0

"""Reasoning of a chat: a reader that splits it off from the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from typing_extensions import override

from .parts import PartReader, Parts, overlap

_OPENING = "<think>"
_CLOSING = "</think>"


class ThinkReader(PartReader):
    """Reads ``<think>``, reasoning, ``</think>`` and then content.

    Args:
        prompt: The end of the rendered conversation. Some chat templates open the
            reasoning there, and others close it there, which leaves only content.
    """

    def __init__(self, prompt: str) -> None:
        self._rest = ""
        opened = prompt.rstrip().endswith(_OPENING)
        self._read: Callable[[bool], Parts] = (
            self._read_reasoning if opened else self._read_start
        )

    @override
    def push(self, text: str) -> Parts:
        self._rest += text
        return self._read(False)

    @override
    def finish(self) -> Parts:
        return self._read(True)

    def _read_start(self, ended: bool) -> Parts:
        stripped = self._rest.lstrip()
        if stripped.startswith(_OPENING):
            self._rest = stripped[len(_OPENING) :]
            self._read = self._read_reasoning
        elif _OPENING.startswith(stripped) and not ended:
            return Parts()
        else:
            self._read = self._read_content
        return self._read(ended)

    def _read_reasoning(self, ended: bool) -> Parts:
        reasoning, closing, content = self._rest.partition(_CLOSING)
        if closing:
            self._rest = ""
            self._read = self._read_content
            return Parts(content, reasoning)
        held = 0 if ended else overlap(self._rest, _CLOSING)
        shown = self._rest[: len(self._rest) - held]
        self._rest = self._rest[len(shown) :]
        return Parts(reasoning=shown)

    def _read_content(self, ended: bool) -> Parts:  # noqa: ARG002 - all have one face
        content, self._rest = self._rest, ""
        return Parts(content)


REASONING_READERS: Mapping[str, Callable[[str], PartReader]] = MappingProxyType(
    {"deepseek_r1": ThinkReader, "qwen3": ThinkReader}
)
"""Makes a reader of reasoning from the end of a prompt, by the name of
``--reasoning-parser``, which is vLLM's."""
