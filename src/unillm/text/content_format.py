# SPDX-License-Identifier: Apache-2.0

"""The form of contents that a chat template reads: a text, or a list of parts.

A template that gets the other form shows nothing of the message, or shows Python's
notation of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .chat import ContentFormat, Conversation
from .sandbox import environment

if TYPE_CHECKING:
    from jinja2 import nodes

_MARK = "unillm looks for this text"


def detect_content_format(
    template: str, render: Callable[[Conversation], str]
) -> ContentFormat:
    """Return the form that *template* reads.

    As in vLLM, a template with a loop over a content reads parts. One that reads them
    in another way (``content[0].text``, ``selectattr``) is known by its effect: it
    shows a part and does not show a text.

    Args:
        template: Text of the template.
        render: Renders a conversation with it, and may raise anything.
    """
    if _loops_over_content(template):
        return "openai"

    def shows(content: Any) -> bool:
        try:
            return _MARK in render([{"role": "user", "content": content}])
        except Exception:  # noqa: BLE001 - the template takes other messages only
            return False

    if not shows(_MARK) and shows([{"type": "text", "text": _MARK}]):
        return "openai"
    return "string"


def _loops_over_content(template: str) -> bool:
    """Whether a template has a loop over the content of a message.

    References:
        ``_iter_nodes_assign_content_item`` in ``vllm/renderers/hf.py``, vLLM 0.32: the
        same loops count.
    """
    from jinja2 import TemplateError, nodes

    try:
        tree = environment().parse(template)
    except TemplateError:
        return False  # rendering it raises the error
    lists = _names_of(tree, "messages")
    messages = {
        loop.target.name
        for loop in tree.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name) and _name(loop.iter) in lists
    }

    def is_content(expression: nodes.Node) -> bool:
        inner = _unwrapped(expression)
        if isinstance(inner, nodes.Getattr):
            key = inner.attr
        elif isinstance(inner, nodes.Getitem) and isinstance(inner.arg, nodes.Const):
            key = inner.arg.value
        else:
            return False
        return key == "content" and _name(inner.node) in messages

    in_macros: set[int] = set()
    for macro in tree.find_all(nodes.Macro):
        contents = set(_parameters_with(macro, tree, is_content))
        for loop in macro.find_all(nodes.For):
            in_macros.add(id(loop))
            if isinstance(loop.iter, nodes.Name) and loop.iter.name in contents:
                return True
    return any(
        is_content(loop.iter)
        or (
            id(loop) not in in_macros
            and isinstance(loop.iter, nodes.Name)
            and loop.iter.name == "content"
        )
        for loop in tree.find_all(nodes.For)
    )


def _names_of(tree: nodes.Template, name: str) -> set[str]:
    """Return *name* and the variables that it, or a part of it, is assigned to."""
    from jinja2 import nodes

    names = {name}
    while True:
        found = {
            assignment.target.name
            for assignment in tree.find_all(nodes.Assign)
            if isinstance(assignment.target, nodes.Name)
            and _name(assignment.node) in names
        }
        if found <= names:
            return names
        names |= found


def _parameters_with(
    macro: nodes.Macro, tree: nodes.Template, is_content: Callable[[nodes.Node], bool]
) -> Iterator[str]:
    """Yield the parameters of a macro that some call gives a content."""
    from jinja2 import nodes

    names = [parameter.name for parameter in macro.args]
    for call in tree.find_all(nodes.Call):
        if _name(call.node) != macro.name:
            continue
        given = [
            *zip(names, call.args, strict=False),
            *((keyword.key, keyword.value) for keyword in call.kwargs),
        ]
        yield from (name for name, value in given if is_content(value))


def _name(expression: nodes.Node) -> str | None:
    """Return the variable that an expression reads, filtered or cut; or `None`."""
    from jinja2 import nodes

    inner = _unwrapped(expression)
    return inner.name if isinstance(inner, nodes.Name) else None


def _unwrapped(expression: nodes.Node) -> nodes.Node:
    """Return an expression without its filters, tests and slices."""
    from jinja2 import nodes

    while True:
        inner: Any
        if isinstance(expression, (nodes.Filter, nodes.Test)) or (
            isinstance(expression, nodes.Getitem)
            and isinstance(expression.arg, nodes.Slice)
        ):
            inner = expression.node
        else:
            return expression
        if inner is None:  # the filter of a block
            return expression
        expression = inner
