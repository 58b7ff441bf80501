# SPDX-License-Identifier: Apache-2.0

"""Templates in the sandbox of the core, against transformers' own rendering."""

from __future__ import annotations

import pytest
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from transformers.utils.chat_template_utils import render_jinja_template

from unillm.model.find import find_model
from unillm.text.sandbox import compile_template

MESSAGES = [{"role": "user", "content": "é <&> "}, {"role": "x", "content": ["a"]}]

TEMPLATES = {
    "tiny": (find_model("unillm/tiny") / "chat_template.jinja").read_text(),
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "sorted": "{{ {'b': 1, 'a': 2} | tojson(sort_keys=True, separators=(',', ':')) }}",
    "blocks": "  {% for m in messages %}\n  {{ m.role }}\n  {% endfor %}\n",
    "controls": "{% for m in messages %}{% continue %}{{ m }}{% endfor %}!",
    "generation": "{% set a = 1 %}{% for m in messages %}{% generation %}"
    "{% set a = 2 %}{{ m.role }}{{ a }}{{ loop.index }}{% endgeneration %}{{ a }}"
    "{% endfor %}",
    "missing": "{{ missing }}{{ tools is none }}{{ documents is none }}",
    "time": "{{ strftime_now('%Y-%m') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(name):
    template = TEMPLATES[name]

    ours = compile_template(template).render(
        messages=MESSAGES, tools=None, documents=None, add_generation_prompt=True
    )

    theirs = render_jinja_template(
        [MESSAGES], chat_template=template, add_generation_prompt=True
    )
    assert ours == theirs[0][0]


def test_a_template_may_refuse_a_conversation():
    with pytest.raises(TemplateError, match="roles"):
        compile_template("{{ raise_exception('roles') }}").render()


@pytest.mark.parametrize(
    "template",
    ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}"],
    ids=["changes what it is given", "reaches Python"],
)
def test_the_sandbox_holds(template):
    with pytest.raises(SecurityError):
        compile_template(template).render(messages=[])
