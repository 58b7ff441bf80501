# SPDX-License-Identifier: Apache-2.0

"""Jinja's sandbox, set up for chat templates as transformers sets it up.

A template sees the same names here and there. Rendering here imports no transformers,
which loads torch.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_COMPILED = 32
"""Templates that stay compiled; each call may bring its own."""


@functools.lru_cache(maxsize=_COMPILED)
def compile_template(text: str) -> Template:
    """Return the compiled template.

    Raises:
        jinja2.TemplateError: The text is not a template.

    References:
        ``_cached_compile_jinja_template``, transformers 5.19: filters, globals and the
        block ``generation``, which marks the answers of an assistant for training.
    """
    return environment().from_string(text)


@functools.cache
def environment() -> Environment:
    """Return the sandbox, in which templates change nothing that they are given."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_shown")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _shown(self, caller: Any) -> str:
            return str(caller())

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    return made


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without the escapes of HTML that Jinja's own filter makes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now().strftime(form)  # noqa: DTZ005 - the day where it runs
