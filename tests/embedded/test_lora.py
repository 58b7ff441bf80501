# SPDX-License-Identifier: Apache-2.0

"""Adapters on the embedded engine: each row is computed with its own, or refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from embedded.serving import (
    CUDA_NEAR_TIE,
    DEVICE,
    NEAR_TIE,
    Known,
    PoisonedEngine,
    assert_same_tokens,
    generate_alone,
    greedy_request,
    serve,
    whole_prompt,
)
from embedded.tiny_models import VOCAB, make_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from unillm import Generator, LoRARequest, SamplingParams
from unillm.embedded.engine import TransformersSlotEngine
from unillm.embedded.weights import lora
from unillm.errors import (
    BackendUnavailableError,
    InvalidParameterError,
    UnsupportedParameterError,
)
from unillm.model.find import find_model

TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "mixtral": ["q_proj", "o_proj"],
    "bloom": ["query_key_value"],
}
"""Layers that the adapters change: plain and transposed ones, beside experts, and those
of a model that attends by itself."""


def save_adapter(model, path, seed: int, targets, **config):
    """Save random matrices, large enough to change the tokens."""
    options = {"r": 4, "lora_alpha": 16, "init_lora_weights": False, **config}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        get_peft_model(
            model, LoraConfig(target_modules=targets, **options)
        ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Save three adapters of a family once, with different ranks."""
    root = tmp_path_factory.mktemp("adapters")
    made = {}

    def make(family):
        if family not in made:
            transposed = {"fan_in_fan_out": True} if family == "gpt2" else {}
            made[family] = [
                LoRARequest(
                    f"adapter {number}",
                    number,
                    save_adapter(
                        make_model(family),
                        root / family / str(number),
                        seed=number,
                        targets=TARGETS[family],
                        r=2**number,
                        use_rslora=number == 3,
                        **transposed,
                    ),
                )
                for number in (1, 2, 3)
            ]
        return made[family]

    return make


@pytest.fixture(scope="module")
def known(adapters):
    """Make requests with and without adapters, and the tokens of merged models."""
    made = {}

    def make(family):
        if family in made:
            return made[family]
        merged = {None: make_model(family)}
        for adapter in adapters(family):
            with_it = PeftModel.from_pretrained(make_model(family), adapter.lora_path)
            merged[adapter] = with_it.merge_and_unload()
        rng = random.Random(family)
        found = []
        for number in range(32):
            prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 80))]
            adapter = [None, *adapters(family)][number % 4]
            request = attrs.evolve(
                greedy_request(number, prompt, rng.randint(1, 12)),
                lora_request=adapter,
            )
            tokens = generate_alone(merged[adapter], request)
            found.append((merged[adapter], Known(request, tokens)))
        made[family] = found
        return found

    return make


@pytest.mark.parametrize(
    ("num_slots", "max_loras", "budget"),
    [(4, 4, 2048), (5, 2, 50), (4, 1, 2048), (1, 1, 30)],
    ids=["4 slots", "2 adapters at a time, in chunks", "1 adapter", "1 slot"],
)
@pytest.mark.parametrize("family", TARGETS)
def test_tokens_are_those_of_the_merged_model(
    known, family, num_slots, max_loras, budget
):
    """Rows with different adapters and with none stand side by side."""
    expected = known(family)
    engine = PoisonedEngine(
        make_model(family).to(DEVICE),
        num_slots=num_slots,
        max_model_len=224,
        max_loras=max_loras,
    )

    got = serve(
        engine,
        [each.request for _, each in expected],
        seed=num_slots,
        max_num_batched_tokens=budget,
    )

    near_tie = CUDA_NEAR_TIE if DEVICE == "cuda" else NEAR_TIE
    for model, each in expected:
        assert_same_tokens(model, [each], got, near_tie=near_tie)


@pytest.mark.parametrize("family", TARGETS)
def test_adapters_change_the_tokens(known, adapters, family):
    """Otherwise equality would prove little."""
    model = make_model(family)
    changed = {
        each.request.lora_request
        for _, each in known(family)
        if generate_alone(model, each.request) != each.tokens
    }

    assert changed == set(adapters(family))


def test_no_more_adapters_are_kept_than_allowed(known, adapters):
    engine = TransformersSlotEngine(
        make_model("llama"), num_slots=2, max_model_len=224, max_loras=2
    )

    serve(engine, [each.request for _, each in known("llama")])

    kept = {
        name.split(".")[-2]
        for name, _ in engine._model.named_parameters()
        if ".lora_A." in name
    }
    assert len(kept) == 2


# ------------------------------------------------------------------------- refusals


@pytest.fixture
def engine():
    return TransformersSlotEngine(
        make_model("llama"), num_slots=2, max_model_len=224, max_loras=2
    )


@pytest.fixture
def adapter(tmp_path):
    return save_adapter(make_model("llama"), tmp_path / "broken", 1, ["q_proj"])


def change_config(path, **values):
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_tensors(path, change):
    file = path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def refusal(engine, path) -> str:
    request = attrs.evolve(
        greedy_request(0, [1], 1), lora_request=LoRARequest("broken", 9, path)
    )
    with pytest.raises(InvalidParameterError) as caught:
        engine.check_request(request)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"use_dora": True}, "use_dora=True is not served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head'] is not served"),
        ({"bias": "all"}, "bias='all' is not served"),
        ({"something_new": 1}, "something_new=1 is not served"),
        ({"r": 8}, "have rank 4, and its configuration has rank 8"),
        ({"r": 0}, "r is 0, not a number > 0"),
        ({"lora_alpha": "16"}, "lora_alpha is '16', not a number > 0"),
        ({"rank_pattern": {"q_proj": 2}}, "configuration has rank 2"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern has '(a+)+$': 4"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern has 'q_proj': None"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the model's own weights too"),
    ],
)
def test_more_than_two_matrices_a_layer_is_refused(engine, adapter, values, reason):
    change_config(adapter, **values)

    assert reason in refusal(engine, adapter)


def test_an_adapter_of_another_model_is_refused(engine, tmp_path):
    other = save_adapter(make_model("qwen3"), tmp_path / "other", 1, ["q_proj"])

    message = refusal(engine, other)

    assert "the layer has 64 inputs and 64 outputs" in message
    assert "It was made for" in message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: {}, "it has no tensors"),
        (lambda old: old | {"a.b": torch.zeros(1)}, "a.b is not a LoRA matrix"),
        (lambda old: {k: v.int() for k, v in old.items()}, "is not a LoRA matrix"),
        (lambda old: {k: v[0].clone() for k, v in old.items()}, "is not a LoRA matrix"),
        (
            lambda old: {k: v for k, v in old.items() if "lora_B" not in k},
            "lacks one of its two matrices",
        ),
        (
            lambda old: {k.replace("layers.1", "layers.7"): v for k, v in old.items()},
            "layers.7.self_attn.q_proj, which is not a layer of this model",
        ),
        (
            lambda old: {
                k.replace("model.layers", "lm_head"): v for k, v in old.items()
            },
            "is not a layer of this model that computes each row alone",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(engine, adapter, change, reason):
    change_tensors(adapter, change)

    assert reason in refusal(engine, adapter)


def test_a_file_that_is_not_whole_is_refused(engine, adapter):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])

    assert "is not whole" in refusal(engine, adapter)


@pytest.mark.parametrize("layer", ["lm_head", "model.layers.0.mlp.gate"])
def test_the_output_layer_and_routers_take_no_adapters(adapter, layer):
    """The output layer sees the last tokens alone, a router a mix of all rows."""
    inputs, outputs = 64, make_model("mixtral").get_submodule(layer).weight.shape[0]
    name = f"base_model.model.{layer}.lora_"
    matrices = {
        f"{name}A.weight": torch.zeros(4, inputs),
        f"{name}B.weight": torch.zeros(outputs, 4),
    }
    change_tensors(adapter, lambda _: matrices)
    engine = TransformersSlotEngine(
        make_model("mixtral"), num_slots=2, max_model_len=224, max_loras=2
    )

    assert f"it changes {layer}, which is not a layer" in refusal(engine, adapter)


def test_an_adapter_that_breaks_while_it_waits_fails_alone(engine, adapter, known):
    broken = attrs.evolve(
        greedy_request(0, [1, 2, 3], 4), lora_request=LoRARequest("b", 9, adapter)
    )
    engine.check_request(broken)
    (adapter / "adapter_model.safetensors").unlink()
    [(model, each), *_] = known("llama")

    with pytest.raises(AssertionError, match="its weights cannot be read"):
        serve(engine, [broken])
    got = serve(
        TransformersSlotEngine(
            make_model("llama"), num_slots=2, max_model_len=224, max_loras=2
        ),
        [each.request],
    )

    assert_same_tokens(model, [each], got)


def test_an_adapter_that_changes_while_it_waits_fails_alone(engine, adapter):
    changed = attrs.evolve(
        greedy_request(0, [1, 2, 3], 4), lora_request=LoRARequest("c", 9, adapter)
    )
    engine.check_request(changed)
    change_tensors(adapter, lambda old: {k: v[:2].clone() for k, v in old.items()})

    [token] = engine.prefill([whole_prompt(0, changed)]).tokens

    assert "its weights changed after they were checked" in token.error


def test_without_peft_the_error_names_the_command(monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)

    with pytest.raises(BackendUnavailableError, match=r"pip install .*\[lora\]"):
        Generator("unillm/tiny", backend="transformers", enable_lora=True)


# ------------------------------------------------------------------------ Generator

GREEDY = SamplingParams(temperature=0, max_tokens=30)
COUNT = "Count from 3 to 9:"


@pytest.fixture(scope="module")
def tiny_adapter(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("tiny") / "adapter"
    model = AutoModelForCausalLM.from_pretrained(find_model("unillm/tiny"))
    save_adapter(model, path, 1, ["q_proj", "v_proj"], r=8, lora_alpha=64)
    return LoRARequest("noise", 1, path)


def test_each_prompt_of_a_call_gets_its_own_adapter(tiny_adapter):
    with Generator(
        "unillm/tiny", backend="transformers", enable_lora=True
    ) as generator:
        [plain] = generator.generate(COUNT, GREEDY)
        [changed] = generator.generate(COUNT, GREEDY, lora_request=tiny_adapter)
        both = generator.generate(
            [COUNT, COUNT, COUNT], GREEDY, lora_request=[None, tiny_adapter, None]
        )
        streamed = generator.stream(COUNT, GREEDY, lora_request=tiny_adapter)
        text = "".join(delta.text for delta in streamed)

    assert plain.text == "3 4 5 6 7 8 9"
    assert changed.text != plain.text
    assert [output.text for output in both] == [plain.text, changed.text, plain.text]
    assert text == changed.text


def test_a_generator_without_adapters_names_the_option(tiny_adapter):
    with (
        Generator("unillm/tiny", backend="transformers") as generator,
        pytest.raises(
            UnsupportedParameterError, match="Generator with enable_lora=True"
        ),
    ):
        generator.generate(COUNT, GREEDY, lora_request=tiny_adapter)


def test_a_rank_over_the_limit_is_refused(tiny_adapter):
    with (
        Generator(
            "unillm/tiny", backend="transformers", enable_lora=True, max_lora_rank=4
        ) as generator,
        pytest.raises(InvalidParameterError, match="max_lora_rank=8"),
    ):
        generator.generate(COUNT, GREEDY, lora_request=tiny_adapter)


def test_a_bad_adapter_fails_alone(tiny_adapter, tmp_path):
    missing = LoRARequest("missing", 2, tmp_path / "missing")
    with Generator(
        "unillm/tiny", backend="transformers", enable_lora=True
    ) as generator:
        good, bad = generator.generate(
            [COUNT, COUNT],
            GREEDY,
            lora_request=[None, missing],
            on_error="return",
        )

    assert good.text == "3 4 5 6 7 8 9"
    assert "is not there" in str(bad)


def test_an_adapter_beside_the_weights_is_applied_only_where_a_request_names_it(
    tmp_path,
):
    """transformers alone would add it to the model, because peft is installed."""
    source = find_model("unillm/tiny")
    model = Path(shutil.copytree(source, tmp_path / "model"))
    whole = AutoModelForCausalLM.from_pretrained(source)
    save_adapter(whole, tmp_path / "adapter", seed=3, targets=["q_proj", "v_proj"])
    for file in (tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(file, model)
    params = SamplingParams(temperature=0, max_tokens=20)
    prompt = "Add 17 and 25:"

    with Generator(model, backend="transformers", enable_lora=True) as generator:
        [plain] = generator.generate(prompt, params)
        [adapted] = generator.generate(
            prompt, params, lora_request=LoRARequest("beside", 1, model)
        )

    assert plain.text == "42"
    assert adapted.text != "42"
