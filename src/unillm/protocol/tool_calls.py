# SPDX-License-Identifier: Apache-2.0

"""Tools of a chat: which calls a model may make, and readers that find them in text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..errors import UnsupportedParameterError
from .bodies import ChatBody
from .parts import PartReader

CALL_READERS: Mapping[str, Callable[[ChatBody], PartReader]] = MappingProxyType({})
"""Makes a reader of calls for one answer, by the name of ``--tool-call-parser``."""


def check_tools(body: ChatBody, *, parser: str | None) -> None:
    """Refuse calls that nothing would find in the answer.

    Args:
        body: The request.
        parser: Name of the server's reader of calls; `None` for none.

    Raises:
        UnsupportedParameterError: The request wants calls and there is no reader.
    """
    if not body.tools or body.tool_choice == "none" or parser is not None:
        return
    raise UnsupportedParameterError(
        "The server has no parser for tool calls, so it could not return them. Start "
        'it with --tool-call-parser, or send tool_choice: "none".',
        parameter="tools",
        value=None,
    )
