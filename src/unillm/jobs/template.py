# SPDX-License-Identifier: Apache-2.0

"""`Template`: the prompt of a row as a Jinja template over its columns.

A template is a program, and rows are data of others, so the environment is Jinja's
sandbox. A column that is missing is an error of its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, InvalidPromptError


class Template:
    """A compiled template.

    Args:
        text: Jinja.

    Raises:
        ConfigError: The text is not a template.
    """

    def __init__(self, text: str) -> None:
        import jinja2
        from jinja2 import meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, autoescape=False
        )
        try:
            self.columns = frozenset(
                meta.find_undeclared_variables(environment.parse(text))
            )
            self._template = environment.from_string(text)
        except jinja2.TemplateError as error:
            raise ConfigError(
                f"--prompt-template is not a Jinja template: {error}. A column is "
                "written {{ column }}."
            ) from error

    def render(self, row: Mapping[str, Any]) -> str:
        """Return the prompt of a row.

        Raises:
            InvalidPromptError: A column is missing, or the template failed on it.
        """
        try:
            return self._template.render(row)
        except Exception as error:  # filters raise anything
            raise InvalidPromptError(
                f"The prompt template failed on this row: {error}. Its columns are "
                f"{', '.join(map(str, row)) or 'none'}."
            ) from error
