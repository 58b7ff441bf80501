# SPDX-License-Identifier: Apache-2.0

"""Quantised checkpoints: their tokens are those of `generate`, or they are refused."""

from __future__ import annotations

import json
import random
import warnings

import pytest
import torch
from embedded.serving import (
    Known,
    assert_same_tokens,
    generate_alone,
    greedy_request,
    serve,
)
from embedded.tiny_models import CONFIGS, VOCAB
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from unillm.embedded.families import refusal_of
from unillm.embedded.loading import load_engine
from unillm.embedded.weights import quantised
from unillm.errors import ConfigError, UnsupportedModelError

NEAR_TIE = 1e-3
ROUNDED_NEAR_TIE = 1e-1
"""In layers that round activations to 8 bits, a difference in the last bit, as other
shapes of a batch cause, may become a whole step of rounding."""


def plain_model():
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    config = CONFIG_MAPPING["llama"](**(CONFIGS["llama"] | sizes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_torchao(path, plain) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    _save_torchao(path, plain, torchao.Int8WeightOnlyConfig())


def save_torchao_dynamic(path, plain) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    _save_torchao(path, plain, torchao.Int8DynamicActivationInt8WeightConfig())


def _save_torchao(path, plain, config) -> None:
    from transformers import TorchAoConfig

    save_quantised(path, plain, TorchAoConfig(config))


def save_nf4(path, plain) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    save_quantised(path, plain, config)


def save_int8(path, plain) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    save_quantised(path, plain, config)


def save_quantised(path, plain, config) -> None:
    """Quantise while loading, as users do, and store the result."""
    pytest.importorskip("accelerate")
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    model.save_pretrained(path)


def save_compressed(path, plain, *, format_, weights, inputs=None) -> None:
    """Round the weights, and store them in compressed-tensors' format."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(symmetric=True, **weights),
        input_activations=inputs and QuantizationArgs(symmetric=True, **inputs),
    )
    model = AutoModelForCausalLM.from_pretrained(plain)
    apply_quantization_config(
        model,
        QuantizationConfig(
            config_groups={"all": scheme},
            ignore=["lm_head"],
            quantization_status="frozen",
            format=format_,
        ),
    )
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            weight = module.weight.detach()
            if size := weights.get("group_size"):
                groups = weight.reshape(weight.shape[0], -1, size)
                least, most = groups.amin(-1), groups.amax(-1)
            else:
                least, most = (
                    weight.amin(-1, keepdim=True),
                    weight.amax(-1, keepdim=True),
                )
            scale, _ = calculate_qparams(least, most, scheme.weights)
            module.weight_scale.data.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(
        model, quantization_format=format_
    )
    compressor.compress_model(model)
    model.save_pretrained(path)
    compressor.update_config(path)


def save_w4a16(path, plain) -> None:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    save_compressed(path, plain, format_="pack-quantized", weights=weights)


def save_w8a8(path, plain) -> None:
    _save_8_bits(path, plain, format_="int-quantized", type_="int")


def save_fp8(path, plain) -> None:
    _save_8_bits(path, plain, format_="float-quantized", type_="float")


def _save_8_bits(path, plain, *, format_, type_) -> None:
    numbers = {"num_bits": 8, "type": type_}
    save_compressed(
        path,
        plain,
        format_=format_,
        weights={**numbers, "strategy": "channel"},
        inputs={**numbers, "strategy": "token", "dynamic": True},
    )


SAVE = {
    "bitsandbytes int8": save_int8,
    "bitsandbytes nf4": save_nf4,
    "compressed-tensors fp8": save_fp8,
    "compressed-tensors w4a16": save_w4a16,
    "compressed-tensors w8a8": save_w8a8,
    "torchao int8": save_torchao,
    "torchao int8, dynamic": save_torchao_dynamic,
}
ROUNDED = {
    "bitsandbytes int8",
    "compressed-tensors fp8",
    "compressed-tensors w8a8",
    "torchao int8, dynamic",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain")
    plain_model().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def stored(plain, tmp_path_factory):
    """Save a checkpoint of each kind once, and return its path."""
    root = tmp_path_factory.mktemp("quantised")

    def make(name):
        path = root / name.replace(" ", "_")
        if not path.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the packages warn while they quantise
                SAVE[name](path, plain)
        return path

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAVE)
def test_tokens_are_those_of_generate_of_the_same_checkpoint(stored, name):
    path = stored(name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    rng = random.Random(name)
    known = []
    for number in range(24):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 90))]
        request = greedy_request(number, prompt, rng.randint(1, 10))
        known.append(Known(request, generate_alone(model, request)))

    for num_slots, budget in ((5, 2048), (3, 40)):
        engine = load_engine(path, device="cpu", max_num_seqs=num_slots)
        got = serve(
            engine,
            [each.request for each in known],
            seed=num_slots,
            max_num_batched_tokens=budget,
        )

        near_tie = ROUNDED_NEAR_TIE if name in ROUNDED else NEAR_TIE
        assert_same_tokens(model, known, got, near_tie=near_tie)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAVE)
def test_a_row_does_not_depend_on_its_neighbours(stored, name):
    model = AutoModelForCausalLM.from_pretrained(stored(name), dtype="auto").eval()
    rows = torch.randint(VOCAB, (8, 12), generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        alone, beside = model(rows[:1]).logits[0], model(rows).logits[0]

    assert torch.equal(alone, beside)


def test_quantising_changes_the_tokens(stored, plain):
    """Otherwise the checkpoints would prove little."""
    path = stored("compressed-tensors w4a16")
    request = greedy_request(0, [1, 2, 3], 20)

    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")

    whole = AutoModelForCausalLM.from_pretrained(plain)
    assert generate_alone(model, request) != generate_alone(whole, request)


# ------------------------------------------------------------------------- refusals


def llama(**quantisation):
    return {"model_type": "llama", "quantization_config": quantisation}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (llama(quant_method="gptq"), r"quantised \(gptq\): its kernels run on GPUs"),
        (llama(quant_method="quanto"), "transformers cannot store it"),
        (llama(quant_method="new"), "which is not verified yet; served are bitsandb"),
        (llama(bits=3), "an unknown method"),
        (
            llama(quant_method="bitsandbytes", load_in_8bit=True),
            "outlier columns over all rows.*llm_int8_threshold=0",
        ),
        (llama(load_in_8bit=True), r"quantised \(bitsandbytes\): LLM.int8"),
        (
            llama(
                quant_method="compressed-tensors",
                config_groups={
                    "g": {"input_activations": {"dynamic": True, "strategy": "tensor"}}
                },
            ),
            "scaled over all rows of a step, so rows would not be independent",
        ),
    ],
)
def test_a_refused_checkpoint_names_the_reason(config, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(UnsupportedModelError, match=reason):
        load_engine(tmp_path)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)

    reason = refusal_of(llama(quant_method="compressed-tensors"))

    assert reason == (
        "the checkpoint is quantised (compressed-tensors), and its packages are not "
        "installed. Run: pip install compressed-tensors accelerate"
    )


def test_another_method_than_the_checkpoints_is_refused(plain):
    with pytest.raises(ConfigError, match=r"awq.*the checkpoint is not quantised"):
        load_engine(plain, quantization="awq")


def test_the_method_of_the_checkpoint_may_be_named(stored):
    path = stored("compressed-tensors w4a16")

    engine = load_engine(path, device="cpu", quantization="compressed-tensors")

    assert engine.num_slots == 8
    with pytest.raises(ConfigError, match="adapters on it were not verified"):
        load_engine(path, enable_lora=True)
