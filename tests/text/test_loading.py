# SPDX-License-Identifier: Apache-2.0

"""Loading: every source of a tokenizer, and the configs beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from unillm.errors import (
    ChatTemplateError,
    ModelLoadError,
    ModelNotFoundError,
    TokenizerError,
    UnsafeModelError,
)
from unillm.model.find import find_model
from unillm.testing.hostile import trapped_model
from unillm.text.loading import load_tokenizer, read_model_text

TINY = find_model("unillm/tiny")


@pytest.fixture
def built(tmp_path):
    """A built engine: a config of its own kind, and no tokenizer."""
    path = tmp_path / "built"
    path.mkdir()
    content = {"pretrained_config": {"dtype": "float32"}, "eos_token_id": 3}
    (path / "config.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def copied(llama3_dir, tmp_path):
    """A copy of the Hugging Face directory that a test may break."""
    path = tmp_path / "model"
    shutil.copytree(llama3_dir, path)
    return path


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ----------------------------------------------------------------------- tokenizers


def test_a_hugging_face_directory_is_read_with_its_special_tokens(llama3_dir):
    tokenizer = load_tokenizer(llama3_dir)

    assert isinstance(tokenizer.wrapped, PreTrainedTokenizerFast)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.special_token_ids == frozenset(range(6))
    assert tokenizer.vocab_size == len(tokenizer.wrapped)
    assert list(tokenizer.chat_templates) == ["default"]
    assert "eot_id" in tokenizer.chat_templates["default"]
    assert {name.rpartition("/")[2] for name in tokenizer.files} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


@pytest.mark.parametrize("as_file", [False, True], ids=["directory", "file"])
def test_a_bare_tokenizer_json_names_no_eos(llama3_dir, tmp_path, as_file):
    shutil.copy(llama3_dir / "tokenizer.json", tmp_path)

    tokenizer = load_tokenizer(
        tmp_path / "tokenizer.json" if as_file else str(tmp_path)
    )

    assert isinstance(tokenizer.wrapped, tokenizers.Tokenizer)
    assert tokenizer.eos_token_id is None
    assert tokenizer.chat_templates == {}
    assert tokenizer.special_token_ids == frozenset(range(6))
    assert tokenizer.files == (str(tmp_path / "tokenizer.json"),)


@pytest.mark.parametrize("as_file", [False, True], ids=["directory", "file"])
def test_a_bare_sentencepiece_model_is_read(sentencepiece_dir, processor, as_file):
    path = sentencepiece_dir / "tokenizer.model" if as_file else sentencepiece_dir

    tokenizer = load_tokenizer(path)

    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.special_token_ids == {1, 2}
    assert tokenizer.vocab_size == processor.vocab_size()
    ids = tokenizer.encode("hello world", add_special_tokens=True)
    assert ids == [1, *processor.encode("hello world")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello world"
    assert tokenizer.decode([*ids, 2], skip_special_tokens=False).startswith("<s>")


SPECIAL = {
    "bos_token": {"content": "<|begin_of_text|>", "lstrip": False},
    "eos_token": "<|end_of_text|>",
    "pad_token": "<|eom_id|>",
    "additional_special_tokens": ["<|eot_id|>"],
}


def without_config(llama3_dir, path):
    """Make a tokenizer of the kind that a conversion leaves, without its config."""
    path.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(llama3_dir / name, path)
    (path / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    return path


def test_the_special_tokens_are_known_without_a_tokenizer_config(llama3_dir, tmp_path):
    whole = load_tokenizer(llama3_dir)

    tokenizer = load_tokenizer(without_config(llama3_dir, tmp_path))

    assert isinstance(tokenizer.wrapped, tokenizers.Tokenizer)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.special_token_ids == whole.special_token_ids
    messages = [{"role": "user", "content": "hello"}]
    rendered = tokenizer.apply_chat_template(messages)
    assert rendered == whole.apply_chat_template(messages)
    assert rendered.startswith("<|begin_of_text|>")
    named = "{{ bos_token }} {{ eos_token }} {{ pad_token }}"
    assert tokenizer.apply_chat_template(messages, chat_template=named) == (
        "<|begin_of_text|> <|end_of_text|> <|eom_id|>"
    )
    assert read_model_text(tmp_path).eos.ids == {1, 5}
    assert [file.rpartition("/")[2] for file in tokenizer.files] == [
        "tokenizer.json",
        "chat_template.jinja",
        "special_tokens_map.json",
    ]


def test_a_plain_token_that_the_map_names_is_special(llama3_dir, tmp_path):
    shutil.copy(llama3_dir / "tokenizer.json", tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "!", "bos_token": "<not there>"})
    )

    tokenizer = load_tokenizer(tmp_path)

    end = tokenizer.wrapped.token_to_id("!")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, end)
    assert tokenizer.special_token_ids == {*range(6), end}
    ids = tokenizer.encode("hi!", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hi"


def test_a_sentencepiece_model_has_the_special_tokens_of_its_map(
    sentencepiece_dir, tmp_path
):
    shutil.copy(sentencepiece_dir / "tokenizer.model", tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "<s>", "bos_token": "<not there>"})
    )

    tokenizer = load_tokenizer(tmp_path)

    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 1)


def test_a_broken_special_tokens_map_is_named(llama3_dir, tmp_path):
    without_config(llama3_dir, tmp_path)
    (tmp_path / "special_tokens_map.json").write_text("{")

    with pytest.raises(ModelLoadError, match=r"special_tokens_map\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("with_default", [True, False])
def test_additional_chat_templates_are_read(
    llama3_dir, tmp_path, with_config, with_default
):
    path = tmp_path / "model"
    if with_config:
        shutil.copytree(llama3_dir, path)
    else:
        without_config(llama3_dir, path)
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ 'tools' }}")
    if not with_default:
        (path / "chat_template.jinja").unlink()

    tokenizer = load_tokenizer(path)

    messages = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(messages, tools=[]) == "tools"
    assert tokenizer.apply_chat_template(messages, chat_template="tool_use") == "tools"
    names = {"tool_use", "default"} if with_default else {"tool_use"}
    assert set(tokenizer.chat_templates) == names


def test_a_callers_template_that_is_neither_a_text_nor_a_name_is_refused(llama3_dir):
    assert read_model_text(llama3_dir, None, "default").eos.ids
    assert read_model_text(llama3_dir, None, "{{ 1 }}").eos.ids
    with pytest.raises(ChatTemplateError, match=r"the name of one .* got 'tool_use'"):
        read_model_text(llama3_dir, None, "tool_use")


def test_objects_are_wrapped_as_they_are(llama2, gpt2, processor):
    for source in (llama2, gpt2, processor):
        assert load_tokenizer(source).wrapped is source


def test_a_tokenizer_of_ours_stays_itself(gpt2):
    tokenizer = load_tokenizer(gpt2)

    assert load_tokenizer(tokenizer) is tokenizer


@pytest.mark.parametrize("name", ["no/such/path", "/no/such", "./here", "a b"])
def test_a_path_that_does_not_exist_is_refused(name):
    with pytest.raises(ModelNotFoundError, match="the path does not exist"):
        load_tokenizer(name)


@pytest.fixture
def cached_tokenizer(tmp_path, monkeypatch):
    """Return the directory of a hub id in the local cache, which a test may break."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--unillm--cached"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(TINY / name, snapshot)
    return snapshot


def test_a_tokenizer_of_the_hub_is_read_from_the_cache_as_a_directory(cached_tokenizer):
    assert load_tokenizer("unillm/cached").files[0].startswith(str(cached_tokenizer))

    (cached_tokenizer / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is nested more than 64"):
        load_tokenizer("unillm/cached")


def test_a_hub_id_that_no_cache_has_is_refused(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ModelNotFoundError, match="'unillm/no-such-model', and the hub"):
        load_tokenizer("unillm/no-such-model")


def test_an_empty_directory_names_the_files_looked_for(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json, tokenizer\.model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [b"", b"{}", b"version https://git-lfs"])
def test_a_corrupt_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ModelLoadError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "config.json"]
)
def test_the_error_of_a_corrupt_hugging_face_file_has_its_cause(copied, name):
    (copied / name).write_text('{"version": ')

    with pytest.raises(ModelLoadError) as caught:
        load_tokenizer(copied)

    assert str(caught.value).startswith(f"{copied / name} cannot be read as JSON: ")
    assert str(caught.value.__cause__) in str(caught.value)


def test_an_old_directory_with_a_sentencepiece_model_is_read(
    sentencepiece_dir, tmp_path
):
    shutil.copy(sentencepiece_dir / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer"}'
    )

    tokenizer = load_tokenizer(tmp_path)

    ids = tokenizer.encode("hello world", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "hello world"


def test_code_of_the_checkpoint_is_refused_and_not_run(copied, monkeypatch):
    asked = []  # transformers asks on the terminal by default
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    marker = copied / "ran"
    (copied / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: ...\n")
    (copied / "config.json").unlink()
    edit(
        copied / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Evil", None]},
        tokenizer_class="Evil",
    )

    with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
        load_tokenizer(copied)

    assert not marker.exists()
    assert not asked


def test_a_native_class_is_used_instead_of_the_checkpoints_code(copied):
    marker = copied / "ran"
    (copied / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: ...\n")
    edit(
        copied / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Evil", None]},
    )

    tokenizer = load_tokenizer(copied)

    assert tokenizer.eos_token_id == 1
    assert not marker.exists()


def test_importing_unillm_text_loads_no_tokenizer_library():
    script = (
        "import sys, unillm.text.loading, unillm.text.eos, unillm.text.prompts, "
        "unillm.text.detokenizer; print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    heavy = {"torch", "transformers", "tokenizers", "sentencepiece", "numpy"}
    assert not heavy & set(run.stdout.split())


# ------------------------------------------------------------------- models and configs


def test_a_model_has_tokenizer_eos_tokens_and_config():
    found = read_model_text(TINY)

    ids = found.tokenizer.encode("Add 17 and 25:", add_special_tokens=False)
    assert found.tokenizer.decode(ids, skip_special_tokens=True) == "Add 17 and 25:"
    assert found.model_config == json.loads((TINY / "config.json").read_text())
    assert set(found.model_config["eos_token_id"]) <= set(found.eos.ids)


def test_sampling_defaults_are_those_of_the_generation_config(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    content = {"do_sample": True, "temperature": 0.25, "top_k": 7}
    (model / "generation_config.json").write_text(json.dumps(content))

    params = read_model_text(model).defaults.params

    assert (params.temperature, params.top_k) == (0.25, 7)


def test_a_built_engine_takes_its_configs_from_the_directory_of_its_tokenizer(built):
    for tokenizer in (TINY, str(TINY)):
        found = read_model_text(built, tokenizer=tokenizer)

        model = read_model_text(TINY)
        assert found.eos == model.eos
        assert found.model_config == model.model_config
        assert found.defaults == model.defaults


def test_a_built_engine_may_have_a_tokenizer_file_or_one_under_home(
    built, tmp_path, monkeypatch
):
    shutil.copytree(TINY, tmp_path / "home" / "tiny")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    file = read_model_text(built, tokenizer=TINY / "tokenizer.json")
    assert file.model_config == {}
    assert read_model_text(built, tokenizer="~/tiny").eos == read_model_text(TINY).eos


def test_a_built_engine_has_no_config_beside_a_tokenizer_object(built):
    found = read_model_text(built, tokenizer=load_tokenizer(TINY))

    assert found.model_config == {}
    assert 3 not in found.eos.ids
    assert found.eos.ids


def test_a_models_own_generation_config_comes_first(tmp_path):
    other, model = tmp_path / "other", tmp_path / "model"
    for path, temperature in ((other, 0.5), (model, 0.25)):
        shutil.copytree(TINY, path)
        content = {"do_sample": True, "temperature": temperature}
        (path / "generation_config.json").write_text(json.dumps(content))

    assert read_model_text(model, tokenizer=other).defaults.params.temperature == 0.25


def test_a_model_without_configs_has_empty_ones(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, model / name)

    found = read_model_text(model)

    assert found.model_config == {}
    assert found.eos.ids


def test_tokenizer_code_of_a_model_is_refused_and_not_run(tmp_path):
    model, canary = trapped_model("tokenizer", tmp_path)
    (model / "tokenizer.json").unlink()

    with pytest.raises(UnsafeModelError):
        read_model_text(model)

    assert not canary.exists()
