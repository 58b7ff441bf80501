# SPDX-License-Identifier: Apache-2.0

"""Sphinx: MyST pages, furo, autodoc of Google docstrings. A warning is an error."""

from __future__ import annotations

from unillm import __version__

project = "unillm"
author = "The unillm developers"
project_copyright = "2026, The unillm developers"
release = __version__
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
html_theme = "furo"
html_title = f"unillm {release}"
# The copy button takes the commands of a transcript, without "$ " and their output.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
exclude_patterns = ["_build", "conftest.py"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

nitpicky = True
nitpick_ignore_regex = [
    # Names of other projects: this build reaches no network to link them.
    (
        r"py:.*",
        r"(collections|typing|typing_extensions|os|pathlib|enum|types|importlib|abc|attr|attrs)\..*",
    ),
    # Aliases of argument types, which the pages explain in words.
    (r"py:.*", r"(ParamsLike|UseTqdm|LoRALike|PriorityLike|PathLike)"),
    (r"py:.*", r"unillm\.runtime\.arguments\.\w+Options"),
    (r"py:.*", r"unillm\.text\.prompts\.TokenArray"),
    (r"py:.*", r"unillm\.params\.HasDefaults"),
    (r"py:.*", r"(Any|Path|Self|Literal|Mapping|Sequence|Iterable|Iterator|Callable)"),
    (r"py:.*", r"(Worker|AnswerSettings)"),
]
