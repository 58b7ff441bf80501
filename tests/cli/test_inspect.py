# SPDX-License-Identifier: Apache-2.0

"""`unillm inspect` on a model without real weights."""

from __future__ import annotations

import json

import pytest

TEMPLATE = (
    "{% for m in messages %}<u>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def safetensors(**tensors):
    """Return the bytes of a file: headers and zeros."""
    sizes = {"BF16": 2, "F32": 4}
    header, place = {}, 0
    for name, (dtype, *shape) in tensors.items():
        size = sizes[dtype]
        for extent in shape:
            size *= extent
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(place)


@pytest.fixture
def model(tmp_path):
    """A directory with everything but real weights."""
    import tokenizers

    words = {"<s>": 0, "</s>": 1, "<end>": 2, "<u>": 3, "<a>": 4, "Hello": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<s>"))
    tokenizer.add_special_tokens([token for token in words if token[0] == "<"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    write_json(
        tmp_path / "config.json",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        vocab_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=1,
        dtype="bfloat16",
    )
    write_json(
        tmp_path / "generation_config.json", eos_token_id=[1, 99], temperature=0.6
    )
    weights = safetensors(embed=("BF16", 8, 16), norm=("F32", 16))
    (tmp_path / "model.safetensors").write_bytes(weights)
    return tmp_path


def write_json(path, **content):
    path.write_text(json.dumps(content))


@pytest.fixture
def report(cli, model):
    """The JSON of `inspect` on the model."""

    def run(*args):
        result = cli("inspect", model, "--json", *args)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run


def test_limits_and_defaults_come_from_the_configs(report):
    found = report()

    assert found["architectures"] == ["LlamaForCausalLM"]
    assert found["model_type"] == "llama"
    assert found["context_length"] == 64
    assert found["vocab_size"] == 8
    assert found["tokenizer_size"] == 6
    assert found["default_sampling_params"]["temperature"] == 0.6


def test_parameters_are_counted_from_the_headers(report):
    weights = report()["weights"]

    assert weights["num_parameters"] == 8 * 16 + 16
    assert weights["parameters_by_dtype"] == {"BF16": 128, "F32": 16}
    assert weights["num_files"] == 1
    assert weights["file_bytes"] > 128 * 2 + 16 * 4


def test_every_eos_token_has_all_its_origins(report):
    eos = report()["eos"]

    assert eos["ids"] == [1, 2]
    assert eos["sources"] == [
        {
            "token_id": 1,
            "token": "</s>",
            "origins": ["generation_config.json", "config.json"],
        },
        {"token_id": 2, "token": "<end>", "origins": ["chat template"]},
    ]
    assert [source["token_id"] for source in eos["ignored"]] == [99]


def test_the_chat_template_is_shown_on_one_message(report):
    found = report()

    assert found["has_chat_template"] is True
    assert found["chat_example"] == "<u>Hello<end><a>"


def test_a_model_without_chat_template_has_no_example(model, report, cli):
    (model / "chat_template.jinja").unlink()

    found = report()

    assert found["has_chat_template"] is False
    assert found["chat_example"] is None
    assert "chat template     none" in cli("inspect", model).stdout


def test_memory_is_for_the_given_slots_and_length(report):
    memory = report("--slots", 3, "--length", 32)["memory"]

    # Keys and values of 2 layers with 2 heads of 4 numbers, 2 bytes each.
    assert memory["kv_bytes_per_token"] == 2 * 2 * 2 * 4 * 2
    assert memory["slots"] == 3
    assert memory["length"] == 32
    assert memory["kv_bytes"] == 64 * 3 * 64  # a block is 64 tokens
    assert memory["total_bytes"] >= memory["kv_bytes"] + memory["weight_bytes"]


def test_memory_defaults_to_one_slot_of_the_whole_context(report):
    memory = report("--dtype", "float32")["memory"]

    assert (memory["slots"], memory["length"]) == (1, 64)
    assert memory["dtype"] == "float32"
    assert memory["kv_bytes_per_token"] == 2 * 2 * 2 * 4 * 4
    assert memory["weight_bytes"] == (128 + 16) * 4


def test_the_table_has_the_same_facts(cli, model):
    result = cli("inspect", model)

    shown = " ".join(result.stdout.split())
    assert result.exit_code == 0
    assert result.stderr == ""
    for fact in (
        "LlamaForCausalLM (llama)",
        "context 64 tokens",
        "parameters 144 (BF16, F32, ",
        "temperature=0.6",
        "1 </s> generation_config.json, config.json (primary)",
        "2 <end> chat template",
        "99 – generation_config.json (ignored: outside the vocabulary)",
        "<u>Hello<end><a>",
    ):
        assert fact in shown


def test_a_model_without_eos_is_an_error_that_lists_the_files(model, cli):
    (model / "chat_template.jinja").unlink()
    write_json(model / "generation_config.json", temperature=1.0)
    write_json(model / "config.json", model_type="llama")

    result = cli("inspect", model)

    assert result.exit_code == 3
    assert result.stdout == ""
    assert "No source names an end-of-sequence id" in result.stderr
    for name in ("generation_config.json", "config.json", "tokenizer.json"):
        assert name in result.stderr


@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs", b"", (2**40).to_bytes(8, "little") + b"{}"],
    ids=["git-lfs pointer", "empty", "header too long"],
)
def test_truncated_weights_are_an_error(content, model, cli):
    (model / "model.safetensors").write_bytes(content)

    result = cli("inspect", model)

    assert result.exit_code == 3
    assert "model.safetensors " in result.stderr


def test_a_model_without_weights_has_no_memory_estimate(model, report):
    (model / "model.safetensors").unlink()

    found = report()

    assert found["weights"] is None
    assert found["memory"] is None


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--backend", "vlm"], 4, "No backend is called 'vlm'"),
        (["--slots", "0"], 2, "slots must be an integer ≥ 1"),
        (["--length", "65"], 2, "more than the 64 tokens of the model's"),
    ],
    ids=["backend", "slots", "length"],
)
def test_an_error_is_one_message_with_its_code(args, code, says, model, cli):
    result = cli("inspect", model, *args)

    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
