# SPDX-License-Identifier: Apache-2.0

"""Loading and wrapping: every kind of source behind one interface, none changed."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys

import pytest
import tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from unillm.errors import (
    ChatTemplateError,
    InvalidPromptError,
    ModelNotFoundError,
    TokenizerError,
    UnsafeModelError,
)
from unillm.text.loading import load_tokenizer
from unillm.text.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def copied(llama3_dir, tmp_path):
    """A copy of the Hugging Face directory that a test may break."""
    path = tmp_path / "model"
    shutil.copytree(llama3_dir, path)
    return path


def edit(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


# ----------------------------------------------------------------------------- sources


def test_a_hugging_face_directory(llama3_dir):
    tokenizer = load_tokenizer(llama3_dir)

    assert isinstance(tokenizer.wrapped, PreTrainedTokenizerFast)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert frozenset(range(6)) == tokenizer.special_token_ids
    assert tokenizer.vocab_size == len(tokenizer.wrapped)
    assert "eot_id" in tokenizer.chat_template
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} == {
        name.rpartition("/")[2] for name in tokenizer.files
    }


@pytest.mark.parametrize("as_file", [False, True], ids=["directory", "file"])
def test_a_bare_tokenizer_json_names_no_eos(llama3_dir, tmp_path, as_file):
    shutil.copy(llama3_dir / "tokenizer.json", tmp_path)

    tokenizer = load_tokenizer(
        tmp_path / "tokenizer.json" if as_file else str(tmp_path)
    )

    assert isinstance(tokenizer.wrapped, tokenizers.Tokenizer)
    assert tokenizer.eos_token_id is None
    assert tokenizer.chat_template is None
    assert frozenset(range(6)) == tokenizer.special_token_ids
    assert tokenizer.files == (str(tmp_path / "tokenizer.json"),)


def test_a_bare_tokenizer_with_a_template_beside_it_can_chat(llama3_dir, tmp_path):
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(llama3_dir / name, tmp_path)

    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.apply_chat_template(HELLO).endswith(
        "assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("as_file", [False, True], ids=["directory", "file"])
def test_a_bare_sentencepiece_model(sentencepiece_dir, processor, as_file):
    path = sentencepiece_dir / "tokenizer.model" if as_file else sentencepiece_dir

    tokenizer = load_tokenizer(path)

    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.special_token_ids == {1, 2}
    assert tokenizer.vocab_size == processor.vocab_size()
    ids = tokenizer.encode("hello world", add_special_tokens=True)
    assert ids == [1, *processor.encode("hello world")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello world"
    assert tokenizer.decode([*ids, 2], skip_special_tokens=False).startswith("<s>")


def test_a_bare_model_equals_hugging_faces_reading_of_it(sentencepiece_dir, llama2):
    ours = load_tokenizer(sentencepiece_dir)
    theirs = load_tokenizer(llama2)
    ids = ours.encode("hello 🎉 the old town", add_special_tokens=True)

    for skip in (True, False):
        assert theirs.decode(ids, skip_special_tokens=skip).replace("<s> ", "<s>") == (
            ours.decode(ids, skip_special_tokens=skip).replace("<s> ", "<s>")
        )


def test_objects_are_wrapped_as_they_are(llama2, gpt2, processor):
    for source in (llama2, gpt2, processor):
        assert load_tokenizer(source).wrapped is source


def test_a_tokenizer_of_ours_stays_itself(gpt2):
    tokenizer = load_tokenizer(gpt2)

    assert load_tokenizer(tokenizer) is tokenizer


def test_any_object_with_encode_and_decode_will_do(families):
    tokenizer = families["letters"]

    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode("ab", add_special_tokens=True) == [97, 98]
    assert tokenizer.decode([97, 0, 98], skip_special_tokens=True) == "ab"
    assert tokenizer.token_to_id("a") == 97
    assert tokenizer.eos_token_id == 0


def test_an_object_that_knows_no_size_has_none():
    class Minimal:
        def encode(self, text):
            return [1]

        def decode(self, ids):
            return "x" * len(ids)

    assert load_tokenizer(Minimal()).vocab_size is None


def test_a_token_of_an_object_is_a_text_or_nothing():
    class Numbers:
        def encode(self, text):
            return [len(text)] * (1 + text.count(" "))

        def decode(self, ids):
            return "x"

        def convert_ids_to_tokens(self, token_id):
            return "seven" if token_id == 7 else [token_id]

    tokenizer = load_tokenizer(Numbers())

    assert ["seven", None] == [tokenizer.id_to_token(n) for n in (7, 8)]
    assert [5, None] == [tokenizer.token_to_id(text) for text in ("words", "two words")]


def test_without_a_template_it_is_said_which_files_were_read(sentencepiece_dir):
    class Object:
        def encode(self, text):
            return [1]

        def decode(self, ids):
            return "x"

    for source, where in (
        (Object(), ""),
        (sentencepiece_dir, f" ({sentencepiece_dir / 'tokenizer.model'})"),
    ):
        with pytest.raises(ChatTemplateError) as told:
            load_tokenizer(source).apply_chat_template(HELLO)
        assert f"The tokenizer has no chat template{where}. Pass" in str(told.value)


def test_an_object_that_is_no_tokenizer_is_refused():
    with pytest.raises(TokenizerError, match="object has no encode and no decode"):
        load_tokenizer(object())


def test_special_tokens_of_an_object_are_left_out_when_it_cannot():
    class Special:
        vocab_size = 3
        all_special_ids = (2,)

        def encode(self, text):
            return [0]

        def decode(self, ids):
            return "".join("ab!"[i] for i in ids)

    tokenizer = load_tokenizer(Special())

    assert tokenizer.decode([0, 2, 1], skip_special_tokens=True) == "ab"
    assert tokenizer.decode([0, 2, 1], skip_special_tokens=False) == "a!b"


def test_a_tokenizer_that_transformers_runs_in_python(tmp_path):
    """One id a byte, from 3 on; the ids before it are special."""
    ByT5Tokenizer(extra_ids=0).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = [3 + byte for byte in "a ñ .".encode()]

    assert ids == tokenizer.encode("a ñ .", add_special_tokens=False)
    assert [*ids, 1] == tokenizer.encode("a ñ .", add_special_tokens=True)
    assert "a ñ ." == tokenizer.decode([*ids, 1], skip_special_tokens=True)
    assert "a ñ .</s>" == tokenizer.decode([*ids, 1], skip_special_tokens=False)
    assert (259, 1, {0, 1, 2}) == (
        tokenizer.vocab_size,
        tokenizer.eos_token_id,
        tokenizer.special_token_ids,
    )
    assert ["a", "</s>", None, None] == [
        tokenizer.id_to_token(token_id) for token_id in (100, 1, 259, -1)
    ]
    assert [100, 1, None] == [
        tokenizer.token_to_id(token) for token in ("a", "</s>", "no token")
    ]
    assert tokenizer.pieces is None


def test_of_several_templates_the_default_one_is_used(llama3_dir):
    wrapped = PreTrainedTokenizerFast.from_pretrained(llama3_dir)
    wrapped.chat_template = {"tools": "{{ 1 }}", "default": "{{ 2 }}"}

    assert "{{ 2 }}" == load_tokenizer(wrapped).chat_template

    wrapped.chat_template = {"tools": "{{ 1 }}"}
    assert load_tokenizer(wrapped).chat_template is None


def test_what_an_id_adds_is_known_where_it_does_not_depend_on_its_neighbours(families):
    known = {
        name: each.pieces.start_matters
        for name, each in families.items()
        if each.pieces is not None
    }

    assert {
        "gpt2": False,  # bytes, wherever they stand
        "llama3": False,
        "llama2": True,  # a space is dropped at the start
        "sentencepiece": True,
        "unigram": True,
        "word_pieces": True,
    } == known


def test_byte_fallback_pieces_are_single_bytes(families, processor):
    size = processor.vocab_size()
    fallback = [i for i in range(size) if processor.is_byte(i)]
    assert 256 == len(fallback)

    for name in ("sentencepiece", "llama2"):
        pieces = families[name].pieces
        assert [bytes([n]) for n in range(256)] == [pieces[i] for i in fallback]
        assert b"" == pieces[size + 3]
    gpt2 = families["gpt2"]
    assert b"tool call" == gpt2.pieces[gpt2.token_to_id("tool call")]
    # Its letters happen to be in GPT-2's alphabet, and its decoder takes them for that.
    assert b"\xe9!" == gpt2.pieces[gpt2.token_to_id("é!")]
    assert b"</s>" == families["sentencepiece"].pieces[processor.eos_id()]


def test_ids_and_tokens_find_each_other(families):
    for name in ("gpt2", "llama3", "llama2", "sentencepiece", "word_pieces", "unigram"):
        tokenizer = families[name]
        for token_id in (0, 5, tokenizer.vocab_size - 1):
            token = tokenizer.id_to_token(token_id)

            assert tokenizer.token_to_id(token) == token_id
        assert tokenizer.id_to_token(tokenizer.vocab_size) is None
        assert tokenizer.token_to_id("no such token") is None


def test_the_vocabulary_counts_holes_and_added_tokens(gpt2):
    assert load_tokenizer(gpt2).vocab_size == max(gpt2.get_vocab().values()) + 1


# --------------------------------------------------------------------- what can go wrong


@pytest.mark.parametrize("name", ["no/such/path", "/no/such", "./here", "a b"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(ModelNotFoundError, match="the path does not exist"):
        load_tokenizer(name)


def test_a_name_that_no_cache_has(monkeypatch):
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

    with pytest.raises(TokenizerError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "config.json"]
)
def test_a_corrupt_file_of_a_hugging_face_directory_is_told(copied, name):
    (copied / name).write_text('{"version": ')

    with pytest.raises(TokenizerError) as told:
        load_tokenizer(copied)

    cause = told.value.__cause__
    assert f"{type(cause).__name__}: {cause}" in str(told.value)
    place = copied if name == "tokenizer.json" else copied / name
    assert f"{str(place)!r} cannot be read" in str(told.value)


def test_an_old_directory_with_a_sentencepiece_model_is_read(
    sentencepiece_dir, tmp_path
):
    shutil.copy(sentencepiece_dir / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer"}'
    )

    tokenizer = load_tokenizer(tmp_path)

    ids = tokenizer.encode("hello world", add_special_tokens=False)
    assert "hello world" == tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_code_of_the_checkpoint_is_refused_and_not_run(copied, monkeypatch):
    asked = []  # transformers asks whoever starts the program, unless told not to
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


# -------------------------------------------------------------------- nothing is changed


def test_a_truncating_and_padding_tokenizer_encodes_all_and_stays_so(gpt2):
    source = copy.deepcopy(gpt2)
    source.enable_truncation(2)
    source.enable_padding(length=50)
    before = source.to_str()
    tokenizer = load_tokenizer(source)

    ids = tokenizer.encode("the quick brown fox", add_special_tokens=True)

    assert ids == gpt2.encode("the quick brown fox").ids
    assert before == source.to_str()


def test_a_transformers_tokenizer_stays_as_it_was(llama3_dir):
    source = PreTrainedTokenizerFast.from_pretrained(llama3_dir, padding_side="left")
    source("b c d e f", truncation=True, max_length=2)  # it stays set
    state, backend = repr(source.__dict__), source.backend_tokenizer.to_str()
    tokenizer = load_tokenizer(source)

    ids = tokenizer.encode("the quick brown fox", add_special_tokens=True)
    tokenizer.decode(ids, skip_special_tokens=True)
    tokenizer.apply_chat_template(HELLO)

    assert len(ids) > 2
    assert (repr(source.__dict__), source.backend_tokenizer.to_str()) == (
        state,
        backend,
    )
    assert source.padding_side == "left"


def test_spaces_are_never_tidied_up(word_pieces):
    source = PreTrainedTokenizerFast(
        tokenizer_object=word_pieces, clean_up_tokenization_spaces=True
    )
    ids = source.encode("do n't . stop")

    assert load_tokenizer(source).decode(ids, skip_special_tokens=False) == (
        word_pieces.decode(ids, skip_special_tokens=False)
    )


def test_importing_the_room_loads_no_tokenizer_library():
    script = (
        "import sys, unillm.text.loading, unillm.text.eos, unillm.text.prompts, "
        "unillm.text.detokenizer; print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    heavy = {"torch", "transformers", "tokenizers", "sentencepiece", "numpy"}
    assert not heavy & set(run.stdout.split())


# --------------------------------------------------------------------------------- chat


def test_the_directorys_template_renders(llama3_dir):
    text = load_tokenizer(llama3_dir).apply_chat_template(HELLO)

    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_generation_prompt_can_be_left_out(llama3_dir):
    text = load_tokenizer(llama3_dir).apply_chat_template(
        HELLO, add_generation_prompt=False
    )

    assert text.endswith("hello<|eot_id|>")


def test_the_final_message_can_be_continued(llama3_dir):
    messages = [*HELLO, {"role": "assistant", "content": "I say"}]

    text = load_tokenizer(llama3_dir).apply_chat_template(
        messages, add_generation_prompt=False, continue_final_message=True
    )

    assert text.endswith("I say")


@pytest.mark.parametrize("family", ["llama3", "sentencepiece", "letters"])
def test_a_template_may_be_given_as_text_with_variables(families, family):
    text = families[family].apply_chat_template(
        HELLO, chat_template="{{ mood }}: {{ messages[0].content }}", mood="calm"
    )

    assert text == "calm: hello"


def test_a_bare_tokenizers_special_tokens_are_the_templates_variables(families):
    text = families["sentencepiece"].apply_chat_template(
        HELLO, chat_template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    )

    assert text == "<s>hello</s>"


@pytest.mark.parametrize("family", ["gpt2", "llama2", "sentencepiece", "letters"])
def test_without_a_template_there_is_no_chat(families, family):
    with pytest.raises(ChatTemplateError, match="no chat template"):
        families[family].apply_chat_template(HELLO)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"chat_template": "{{ raise_exception('roles must alternate') }}"},
            "alternate",
        ),
        ({"chat_template": "{{ messages"}, "TemplateSyntaxError"),
        ({"chat_template": "{{ messages.x.y }}"}, "UndefinedError"),
        ({"chat_template": "{{ ''.__class__.__mro__ }}"}, "SecurityError"),
        ({"chat_template": "template.jinja"}, "text of a Jinja template, got 'templ"),
        ({"continue_final_message": True}, "exclude each other"),
    ],
    ids=["raises", "syntax", "undefined", "sandbox", "name", "contradiction"],
)
@pytest.mark.parametrize("family", ["llama3", "sentencepiece"])
def test_what_a_template_refuses_is_told(families, family, options, message):
    options.setdefault("chat_template", "{{ messages[0].content }}")

    with pytest.raises(ChatTemplateError, match=message):
        families[family].apply_chat_template(HELLO, **options)


def test_bad_messages_are_refused_before_the_template(families):
    with pytest.raises(InvalidPromptError, match="Message 0"):
        families["llama3"].apply_chat_template(["hello"])
