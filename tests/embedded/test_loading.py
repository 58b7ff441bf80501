# SPDX-License-Identifier: Apache-2.0

"""Models that load, and models that are refused before or while they load."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from embedded.serving import serve
from embedded.tiny_models import make_model, slots_for
from transformers.utils import logging as transformers_logging

from unillm import inspect_model
from unillm.embedded import loading
from unillm.embedded.families import refusal_of, remark_of
from unillm.embedded.loading import load_engine
from unillm.errors import (
    BackendUnavailableError,
    ConfigError,
    EngineOutOfMemoryError,
    ModelLoadError,
    ModelNotFoundError,
    UnsafeModelError,
    UnsupportedModelError,
)
from unillm.model.checkpoint import read_config
from unillm.model.find import find_model
from unillm.model.memory import memory_needs
from unillm.model.positions import positions_of
from unillm.preparation import plan_engine
from unillm.text.loading import load_tokenizer


@pytest.fixture
def llama(reference, tmp_path):
    """Return a copy that a test may break."""
    return Path(shutil.copytree(reference.path("llama"), tmp_path / "llama"))


def edit_config(path: Path, **changes) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(path: Path, change) -> None:
    file = path / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


# -------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(find_model("unillm/tiny"))


def test_a_model_has_the_context_of_inspect_and_plan_and_the_tokens_of_generate(
    reference, family, tokenizer
):
    known = reference.known(family, 3)
    path = reference.path(family)
    slots = slots_for(family, 4)

    engine = load_engine(path, max_num_seqs=slots)

    assert engine.num_slots == slots
    positions = positions_of(reference.model(family).config)
    planned = plan_engine(path, backend="transformers").memory.limits.max_model_len
    inspected = inspect_model(path, tokenizer=tokenizer).context_length
    assert (engine.max_model_len, planned, inspected) == (positions,) * 3
    assert serve(engine, [k.request for k in known]) == {
        k.request.request_id: k.tokens for k in known
    }


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_weights_and_cache_have_the_dtype(llama, dtype, expected):
    engine = load_engine(str(llama), dtype=dtype, max_model_len=64)

    assert engine._model.dtype == expected
    assert {tensor.dtype for tensor in engine._cache.tensors} == {expected}
    assert (engine.num_slots, engine.max_model_len) == (8, 64)


def test_auto_takes_the_dtype_of_the_checkpoint(tmp_path):
    make_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)

    assert load_engine(tmp_path, device="cpu")._model.dtype == torch.bfloat16


def test_shards_are_loaded(tmp_path):
    make_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2

    assert load_engine(tmp_path, max_num_seqs=1).num_slots == 1


def test_the_callers_progress_bars_are_left_as_they_were(llama, capfd):
    transformers_logging.enable_progress_bar()
    try:
        load_engine(llama)
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.disable_progress_bar()

    assert "%" not in capfd.readouterr().err


def test_two_loads_at_once_leave_the_callers_log_as_it_was():
    advice = logging.getLogger("transformers.generation.configuration_utils")
    first, second = loading._quiet(), loading._quiet()

    first.__enter__()
    second.__enter__()
    assert not advice.filter(logging.makeLogRecord({}))
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)

    assert not advice.disabled
    assert advice.filter(logging.makeLogRecord({}))


def test_refusing_a_family_loads_no_torch(llama):
    code = (
        "import sys, pathlib\n"
        "from unillm.embedded.families import refusal_of\n"
        "from unillm.model.checkpoint import read_config\n"
        f"assert refusal_of(read_config(pathlib.Path({str(llama)!r}))) is None\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_len": 257}, r"max_model_len=257 .* 256 positions"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"device": "tpu"}, "device must be one of"),
        ({"logprobs_mode": "logits"}, "logprobs_mode must be one of raw_logprobs,"),
    ],
    ids=["too long", "dtype", "device", "logprobs mode"],
)
def test_impossible_options_are_refused(llama, options, message):
    with pytest.raises(ConfigError, match=message):
        load_engine(llama, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_unavailable(llama):
    with pytest.raises(BackendUnavailableError, match="no CUDA device"):
        load_engine(llama, device="cuda")


def test_weights_that_cannot_fit_are_refused_before_they_are_read(llama, monkeypatch):
    monkeypatch.setattr("unillm.embedded.loading.free_bytes", lambda _: 10)

    with pytest.raises(EngineOutOfMemoryError, match=r"weights .* GiB .* free on cpu"):
        load_engine(llama)


# --------------------------------------------------------------- unsupported models


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "names no model_type"),
        (
            {"model_type": "unheard-of"},
            "not verified yet; verified are: apertus, arcee",
        ),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "recurrent_gemma"}, "keeps the states of its layers in itself"),
        ({"model_type": "llama", "sliding_window": 32}, "sliding window of 32"),
        (
            {"model_type": "mistral", "layer_types": ["sliding_attention"]},
            "layers of type sliding_attention",
        ),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "both directions",
        ),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}},
            r"quantised \(gptq\)",
        ),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention", "conv"]},
            "layers of type conv",
        ),
        ({"model_type": "gpt2", "add_cross_attention": True}, "cross-attention"),
    ],
    ids=lambda value: (
        value.get("model_type", "none") if isinstance(value, dict) else ""
    ),
)
def test_an_unsupported_model_is_refused_with_the_reason(llama, config, reason):
    assert refusal_of({"model_type": "llama"}) is None

    (llama / "config.json").write_text(json.dumps(config))

    with pytest.raises(UnsupportedModelError, match=reason):
        load_engine(llama)
    assert re.search(reason, refusal_of(config))


def test_longrope_is_served_as_far_as_one_set_of_frequencies_goes(reference):
    """Beyond, the longest row of a step would choose the frequencies of all rows."""
    path = reference.path("phi3, longrope")

    assert load_engine(path).max_model_len == 256
    with pytest.raises(ConfigError, match=r"max_model_len=257 .* 256 positions"):
        load_engine(path, max_model_len=257)


def test_a_warning_says_that_a_family_is_served_one_at_a_time(reference, caplog):
    path = reference.path("gpt_neo")

    engine = load_engine(path)

    assert engine.num_slots == 1
    assert "served one request at a time: it masks its local layers" in caplog.text
    assert remark_of(read_config(path)) in caplog.text
    with pytest.raises(ConfigError, match="Pass max_num_seqs=1, or leave it out"):
        load_engine(path, max_num_seqs=2)


def test_a_window_that_qwen2_does_not_use_is_ignored():
    config = {
        "model_type": "qwen2",
        "use_sliding_window": False,
        "sliding_window": 32768,
        "layer_types": ["full_attention"],
    }

    assert refusal_of(config) is None


# ----------------------------------------------------------------------------- unsafe


def test_code_of_the_checkpoint_is_not_run_unless_trusted(llama, tmp_path):
    proof = tmp_path / "was-here"
    (llama / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n"
        "class Config: pass\nclass Model: pass\n"
    )
    edit_config(
        llama,
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )

    with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
        load_engine(llama)

    assert not proof.exists()


def test_code_of_a_tokenizer_does_not_prevent_loading(llama):
    edit_config(llama, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})

    assert load_engine(llama).num_slots == 8


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"]
)
def test_pickled_weights_are_refused_unread(llama, name):
    (llama / "model.safetensors").unlink()
    (llama / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")

    with pytest.raises(UnsafeModelError, match=rf"{name} only: pickles.*safetensors"):
        load_engine(llama)


def test_pickles_beside_safetensors_are_ignored(llama):
    (llama / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")

    assert load_engine(llama).num_slots == 8


# ----------------------------------------------------------------------------- broken


@pytest.mark.parametrize("path", ["/nowhere/at/all", Path("nowhere"), "./nowhere"])
def test_a_missing_directory_is_refused(path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_engine(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold a JSON object"),
        (None, "no config.json"),
    ],
    ids=["broken", "a list", "missing"],
)
def test_an_unreadable_configuration_is_refused(llama, text, message):
    if text is None:
        (llama / "config.json").unlink()
    else:
        (llama / "config.json").write_text(text)

    with pytest.raises(ModelLoadError, match=message):
        load_engine(llama)


def test_a_configuration_with_impossible_values_is_refused(llama):
    edit_config(llama, hidden_act=["silu"])

    with pytest.raises(ModelLoadError, match=r"config\.json.*hidden_act"):
        load_engine(llama)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: b"not a safetensors file at all",
        lambda data: b"",
    ],
    ids=["half", "five bytes", "long header", "other content", "empty"],
)
def test_an_incomplete_weights_file_is_refused(llama, spoil):
    file = llama / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))

    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        load_engine(llama)


def test_weights_that_lack_a_tensor_are_not_filled_at_random(llama):
    edit_weights(
        llama, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")
    )

    with pytest.raises(ModelLoadError, match=r"1 tensors missing .*up_proj"):
        load_engine(llama)


def test_weights_of_another_shape_are_refused(llama):
    edit_config(llama, intermediate_size=96)

    with pytest.raises(ModelLoadError, match="weights of"):
        load_engine(llama)


def test_a_directory_without_weights_is_refused(llama):
    (llama / "model.safetensors").unlink()

    with pytest.raises(ModelLoadError, match="no weights"):
        load_engine(llama)


def test_a_missing_shard_is_refused(tmp_path):
    make_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    next(tmp_path.glob("*.safetensors")).unlink()

    with pytest.raises(
        ModelLoadError, match=r"lacks .*safetensors, which .*index\.json"
    ):
        load_engine(tmp_path)


# ------------------------------------------------------------------- ignored files


def weight_bytes(path) -> int:
    return memory_needs(path).weight_bytes


def test_copies_of_weights_are_counted_once(tmp_path):
    """Mistral ships one consolidated file beside the shards."""
    model = make_model("mistral")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    before = weight_bytes(tmp_path)
    safetensors.torch.save_model(model, tmp_path / "consolidated.safetensors")

    assert weight_bytes(tmp_path) == before == model.num_parameters() * 4
    assert load_engine(tmp_path).num_slots == 8


def test_a_copy_of_a_single_file_is_not_counted(llama):
    before = weight_bytes(llama)
    shutil.copy(llama / "model.safetensors", llama / "consolidated.safetensors")

    assert weight_bytes(llama) == before


def test_a_broken_file_that_is_not_loaded_is_ignored(llama):
    (llama / "consolidated.safetensors").write_bytes(b"none")

    assert load_engine(llama).num_slots == 8


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}']
)
def test_an_unreadable_index_is_refused(tmp_path, text):
    make_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "model.safetensors.index.json").write_text(text)

    with pytest.raises(ModelLoadError, match=r"index\.json(:| cannot be read)"):
        load_engine(tmp_path)
