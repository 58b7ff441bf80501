# SPDX-License-Identifier: Apache-2.0

"""`Generator` on models that are missing, broken, hostile or incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unillm import Generator
from unillm.errors import (
    ChatTemplateError,
    EosNotFoundError,
    ModelLoadError,
    ModelNotFoundError,
    UnsafeModelError,
)
from unillm.model.find import find_model


@pytest.fixture
def model_copy(tmp_path):
    """Return a copy of the bundled model that a test may break."""
    return Path(shutil.copytree(find_model("unillm/tiny"), tmp_path / "model"))


def change_json(path: Path, *removed: str, **changes) -> None:
    values = {**json.loads(path.read_text()), **changes}
    kept = {key: value for key, value in values.items() if key not in removed}
    path.write_text(json.dumps(kept))


def remove_template(model: Path) -> None:
    change_json(model / "tokenizer_config.json", "chat_template")
    (model / "chat_template.jinja").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [("/no/such/model", "no/such/model"), ("unillm-tiny", "unillm/tiny")],
)
def test_a_missing_model_is_named(name, message):
    with pytest.raises(ModelNotFoundError, match=message):
        Generator(name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_broken_file_is_named(model_copy, name):
    content = (model_copy / name).read_bytes()
    (model_copy / name).write_bytes(content[: len(content) // 2])

    with pytest.raises(ModelLoadError, match=name):
        Generator(model_copy, backend="transformers")


def test_pickled_weights_are_refused_and_leave_no_trace(model_copy):
    canary = model_copy / "canary"
    (model_copy / "model.safetensors").unlink()
    # A pickle that would create the canary if anything loaded it.
    command = f"cbuiltins\nopen\n(V{canary}\nVw\ntR."
    (model_copy / "pytorch_model.bin").write_bytes(command.encode())

    with pytest.raises(UnsafeModelError, match="safetensors"):
        Generator(model_copy)

    assert not canary.exists()


def test_code_in_the_checkpoint_is_refused_and_not_run(model_copy):
    canary = model_copy / "canary"
    change_json(
        model_copy / "config.json",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        model_type="evil",
    )
    (model_copy / "evil.py").write_text(f"open({str(canary)!r}, 'w')")

    with pytest.raises(UnsafeModelError, match="trust_remote_code"):
        Generator(model_copy, backend="transformers")

    assert not canary.exists()


def test_a_model_without_eos_tokens_is_refused_with_the_files_that_were_read(
    model_copy,
):
    for name in ("config.json", "generation_config.json"):
        change_json(model_copy / name, "eos_token_id")
    change_json(model_copy / "tokenizer_config.json", "eos_token")
    remove_template(model_copy)

    with pytest.raises(EosNotFoundError, match=r"generation_config\.json"):
        Generator(model_copy)


def test_chat_needs_a_template(model_copy):
    remove_template(model_copy)

    with (
        Generator(model_copy) as generator,
        pytest.raises(ChatTemplateError, match="template"),
    ):
        generator.chat([{"role": "user", "content": "hello"}])
