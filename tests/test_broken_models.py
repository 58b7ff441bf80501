# SPDX-License-Identifier: Apache-2.0

"""`Generator` on models that are missing, broken, hostile or incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unillm import Generator, SamplingParams, StructuredOutputs
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


def test_eos_tokens_that_the_model_has_no_row_for_do_not_count(model_copy):
    for name in ("config.json", "generation_config.json"):
        change_json(model_copy / name, eos_token_id=[512, 511, 99_999])
    colour = StructuredOutputs(choice=["red", "blue"])

    with Generator(model_copy, backend="transformers") as generator:
        eos = generator.eos
        [answer] = generator.chat([{"role": "user", "content": "Add 17 and 25:"}])
        [choice] = generator.generate(
            "A colour:", SamplingParams(temperature=0, structured_outputs=colour)
        )

    assert generator.eos_token_ids == {511}
    assert [source.token_id for source in eos.ignored] == [512, 99_999]
    assert (answer.text, answer.finish_reason) == ("42", "stop")
    assert choice.text in ("red", "blue")


def test_a_model_with_no_usable_eos_token_is_refused_before_it_is_loaded(model_copy):
    for name in ("config.json", "generation_config.json"):
        change_json(model_copy / name, eos_token_id=512)
    change_json(model_copy / "tokenizer_config.json", "eos_token")
    remove_template(model_copy)
    (model_copy / "model.safetensors").unlink()

    with pytest.raises(EosNotFoundError) as caught:
        Generator(model_copy, backend="transformers")

    assert "whose ids are 0 to 511: 512 (generation_config.json, config.json)" in str(
        caught.value
    )


def test_a_tokenizer_without_its_config_keeps_bos_and_eos_in_a_chat(model_copy):
    chat = [{"role": "user", "content": "Add 17 and 25:"}]
    with Generator(model_copy, backend="transformers") as generator:
        [whole] = generator.chat(chat)
    named = json.loads((model_copy / "tokenizer_config.json").read_text())
    (model_copy / "special_tokens_map.json").write_text(
        json.dumps({name: named[name] for name in ("bos_token", "eos_token")})
    )
    (model_copy / "tokenizer_config.json").unlink()

    with Generator(model_copy, backend="transformers") as generator:
        [bare] = generator.chat(chat)
        eos = generator.eos

    assert bare.prompt_token_ids == whole.prompt_token_ids
    assert bare.prompt.startswith("<|begin_of_text|>")
    assert (bare.text, bare.outputs[0].stop_reason) == ("42", None)
    assert eos.primary == 511


def test_chat_needs_a_template(model_copy):
    remove_template(model_copy)

    with (
        Generator(model_copy) as generator,
        pytest.raises(ChatTemplateError, match="template"),
    ):
        generator.chat([{"role": "user", "content": "hello"}])
