# SPDX-License-Identifier: Apache-2.0

"""Turns, commands and history of a chat, on a generator that answers in capitals."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from unillm import SamplingParams
from unillm.cli import terminal
from unillm.cli.chat_commands import COMMANDS, LEAVING
from unillm.cli.turns import Turn
from unillm.errors import ChatTemplateError, EngineDeadError, RequestFailedError
from unillm.model.find import find_model

Q = '"""'


@pytest.fixture
def talk(fake, cli):
    """Pipe lines into a chat."""

    def run(*lines, args=()):
        return cli("chat", *args, input="".join(f"{line}\n" for line in lines))

    return run


def asked(fake):
    """The conversations that the generator was asked to answer."""
    return [prompt["messages"] for prompt, _ in fake.created[-1].asked]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# ---------------------------------------------------------------------------- answers


def test_each_line_is_answered_and_nothing_else_is_written(talk):
    result = talk("one", "", "two")

    assert result.stdout == "ONE \nTWO \n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_an_answer_becomes_part_of_the_next_question(talk, fake):
    talk("one", "two")

    assert asked(fake) == [[user("one")], [user("one"), assistant("ONE "), user("two")]]


def test_the_system_message_comes_first(talk, fake):
    talk("one", args=("--system", "Be kind."))

    assert asked(fake) == [[{"role": "system", "content": "Be kind."}, user("one")]]


def test_a_last_line_without_its_end_is_a_turn(fake, cli):
    assert cli("chat", input="one").stdout == "ONE \n"


def test_a_chat_without_input_ends_well(fake, cli):
    result = cli("chat", input="")

    assert (result.output, result.exit_code) == ("", 0)


def test_options_are_those_of_generate(talk, fake):
    talk("one", args=("--top-k", 3, "--max-model-len", 64, "--option", "a=1"))

    [generator] = fake.created
    [(_, params)] = generator.asked
    assert (params.temperature, params.top_k, params.max_tokens) == (0.5, 3, 99)
    assert generator.options["max_model_len"] == 64
    assert generator.options["backend_options"] == {"a": 1}
    assert generator.closed


def test_without_a_limit_the_context_limits_an_answer(talk, fake, monkeypatch):
    monkeypatch.setattr(fake, "default_params", SamplingParams())
    talk("one")
    [(_, free)] = fake.created[-1].asked
    talk("one", args=("--max-tokens", 16))
    [(_, limited)] = fake.created[-1].asked

    assert (free.max_tokens, limited.max_tokens) == (None, 16)


def test_an_impossible_option_is_refused_before_the_model_is_loaded(talk, fake):
    result = talk("one", args=("--top-p", 2))

    assert result.exit_code == 2
    assert fake.created == []


# ----------------------------------------------------------------------- several lines


def test_a_block_is_one_message_and_never_a_command(talk, fake):
    talk(Q, "/quit", "  two", "", "three", Q, "four")

    [block], later = asked(fake)
    assert block == user("/quit\n  two\n\nthree")
    assert later[-1] == user("four")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{Q}a", f"b{Q}"], "a\nb"),
        ([Q, "a", f"b{Q}  "], "a\nb"),
        ([f"  {Q}a", "b", Q], "a\nb"),
        ([f"{Q}/etc is a folder{Q}"], "/etc is a folder"),
    ],
    ids=["open beside text", "closed beside text", "indented", "one line"],
)
def test_quotes_may_stand_beside_text(lines, message, talk, fake):
    talk(*lines)

    assert asked(fake) == [[user(message)]]


def test_a_block_without_end_is_not_sent(talk, fake):
    result = talk(Q, "a", "b")

    assert asked(fake) == []
    assert "ended in a block of 2 lines, which was not sent" in result.stderr
    assert result.exit_code == 1


# ---------------------------------------------------------------------------- commands


def test_reset_forgets_the_history_and_keeps_the_rest(talk, fake):
    talk("one", "/reset", "two", args=("--system", "S"))

    assert asked(fake)[1] == [{"role": "system", "content": "S"}, user("two")]


def test_system_changes_the_first_message(talk, fake):
    talk("/system Be kind.", "one", "/system", "two")

    first, second = asked(fake)
    assert first == [{"role": "system", "content": "Be kind."}, user("one")]
    assert second == [user("one"), assistant("ONE "), user("two")]


@pytest.mark.parametrize("name", LEAVING)
def test_quit_and_exit_leave(name, talk):
    result = talk("one", name, "two")

    assert (result.stdout, result.exit_code) == ("ONE \n", 0)


def test_help_names_every_command(talk):
    result = talk("/help")

    for name in (*COMMANDS, *LEAVING, Q, "Ctrl-C"):
        assert name in result.stderr
    assert result.stdout == ""


def test_regenerate_asks_again_and_replaces_the_answer(talk, fake):
    talk("one", "/regenerate", "two")

    first, again, after = asked(fake)
    assert first == again == [user("one")]
    assert after == [user("one"), assistant("ONE "), user("two")]


def test_an_answer_stays_if_another_one_fails(talk, fake):
    answers = iter([None, RequestFailedError("no")])
    fake.faults = _Changing({"one": answers})

    result = talk("one", "/regenerate", "two")

    assert result.stderr == "error: no\n"
    assert asked(fake)[-1] == [user("one"), assistant("ONE "), user("two")]


class _Changing(dict):
    """Gives the next fault of a text at each look."""

    def get(self, text):
        return next(self[text], None) if text in self else None


def test_there_must_be_an_answer_to_regenerate(talk):
    assert "no answer yet" in talk("/regenerate").stderr


def test_a_saved_conversation_is_loaded_and_is_a_line_of_generate(talk, fake, tmp_path):
    file = tmp_path / "talk.jsonl"

    saved = talk("one", f"/save {file}", "two", "/save", args=("--system", "S"))
    loaded = talk(f"/load {file}", "three")

    assert (saved.exit_code, loaded.exit_code) == (0, 0)
    messages = [{"role": "system", "content": "S"}]
    messages += [user("one"), assistant("ONE "), user("two"), assistant("TWO ")]
    line = json.loads(file.read_text())
    assert line == {"model": "unillm/tiny", "messages": messages}
    assert asked(fake)[-1] == [*messages, user("three")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("{", "cannot be loaded"),
        ("[" * 100_000, "cannot be loaded"),
        ('{"messages": [{"role": "system", "content": 5}]}', "texts of user"),
        ('{"messages": [1]}', "cannot be loaded"),
        (
            '{"messages": [{"role": "user", "content": "a"}]}',
            "must take turns, got user",
        ),
    ],
    ids=["no file", "no JSON", "deep", "no text", "no messages", "no answer"],
)
def test_what_cannot_be_loaded_changes_nothing(content, says, talk, fake, tmp_path):
    file = tmp_path / "talk.jsonl"
    if content is not None:
        file.write_text(content)

    result = talk("one", f"/load {file}", "two")

    assert says in result.stderr
    assert asked(fake)[-1] == [user("one"), assistant("ONE "), user("two")]


def test_a_file_of_others_is_not_overwritten(talk, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("mine")

    result = talk("one", f"/save {file}", "/save")

    assert "exists already" in result.stderr
    assert "/save takes a file" in result.stderr
    assert file.read_text() == "mine"


def test_another_model_goes_on_with_the_history(talk, fake, tmp_path):
    talk("one", f"/model {find_model('unillm/tiny')}", "two", args=("--top-k", 3))

    before, after = fake.created
    assert before.closed
    [(prompt, params)] = after.asked
    assert prompt["messages"] == [user("one"), assistant("ONE "), user("two")]
    assert params.top_k == 3


def test_a_model_that_does_not_exist_leaves_the_one_that_answers(talk, fake):
    result = talk("one", "/model no/such/model/here", "two")

    [generator] = fake.created
    assert "no/such/model/here" in result.stderr
    assert len(generator.asked) == 2


def test_params_are_shown_in_the_form_in_which_they_are_given(talk, fake):
    shown = talk("/params").stderr.splitlines()

    assert "temperature=0.5" in shown
    assert "stop=[]" in shown
    assert talk(*(f"/params {line}" for line in shown[1:3]), "a").exit_code == 0


def test_params_change_for_the_turns_after(talk, fake):
    talk("one", '/params temperature=0 stop=["a b", "c=d"]  max_tokens = 7', "two")

    before, _, after = (params for _, params in fake.created[-1].asked)
    assert (before.temperature, before.stop) == (0.5, [])
    assert (after.temperature, after.stop, after.max_tokens) == (0, ["a b", "c=d"], 7)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("temprature=1", "temperature"),
        ("temperature=9", "temperature must be a number in 0..2, got 9"),
        ("top_k=2 temperature=hot", "got 'hot'"),
        ("temperature", "takes name=value, got 'temperature'"),
        ("n=2", "one answer and its text, so n cannot"),
        ("min_tokens=200", "min_tokens=200 is more than max_tokens=99"),
    ],
)
def test_bad_params_are_refused_and_change_nothing(line, says, talk, fake):
    result = talk(f"/params {line}", "one")

    assert result.stdout == "ONE \n"
    assert says in result.stderr
    assert fake.created[-1].asked[-1][1] == fake.default_params
    assert result.exit_code == 1


@pytest.mark.parametrize("line", ["/rest", "/reset now", "/"])
def test_an_unknown_command_is_refused_and_not_sent(line, talk, fake):
    result = talk(line, "one")

    assert result.stderr.startswith("error: ")
    assert asked(fake) == [[user("one")]]
    assert result.exit_code == 1


# ------------------------------------------------------------------------------ errors


def test_a_turn_that_does_not_fit_is_refused_with_its_numbers_and_forgotten(talk, fake):
    result = talk("one", "long", "two")

    assert result.stdout == "ONE \nTWO \n"
    assert "The conversation with it has 9 tokens; at most 7 fit" in result.stderr
    assert "holds 8" in result.stderr
    assert "/reset" in result.stderr
    assert asked(fake)[-1] == [user("one"), assistant("ONE "), user("two")]
    assert result.exit_code == 1


def test_a_first_message_that_does_not_fit_needs_no_reset(talk):
    result = talk("long")

    assert "The message has 9 tokens" in result.stderr
    assert "/reset" not in result.stderr


def test_a_turn_that_fails_is_forgotten(talk, fake):
    fake.faults["bad"] = RequestFailedError("no")

    result = talk("bad", "two")

    assert result.stdout == "BAD \nTWO \n"
    assert result.stderr == "error: no\n"
    assert asked(fake)[-1] == [user("two")]
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(EngineDeadError("dead"), 5), (ChatTemplateError("no template"), 3)],
    ids=["engine", "template"],
)
def test_an_error_of_every_turn_ends_the_chat(error, code, talk, fake):
    fake.faults["one"] = error

    result = talk("one", "two")

    assert "TWO" not in result.stdout
    assert result.stderr == f"error: {error}\n"
    assert result.exit_code == code


def test_a_refused_system_text_can_be_taken_back(talk, fake):
    fake.faults["one"] = ChatTemplateError("no system role")

    result = talk("/system S", "one", "/system", "two")

    assert result.stdout.endswith("TWO \n")
    assert "no system role" in result.stderr


def test_ctrl_c_stops_the_answer_and_keeps_the_text_until_then(talk, fake):
    fake.faults["one more"] = KeyboardInterrupt()

    result = talk("one more", "two")

    assert result.stdout == "ONE MORE \nTWO \n"
    assert "stopped; the answer until then is remembered" in result.stderr
    assert asked(fake)[-1][:2] == [user("one more"), assistant("ONE MORE ")]
    assert result.exit_code == 0


def test_the_conversation_of_an_engine_that_died_is_saved(
    fake, cli, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    turns = iter(["one", "dies"])
    fake.faults["dies"] = EngineDeadError("dead")
    reader = SimpleNamespace(read=lambda: Turn(next(turns)))
    monkeypatch.setattr(terminal, "TerminalInput", lambda: reader)
    monkeypatch.setattr(
        sys.modules["unillm.cli.chat"], "is_terminal", lambda stream: True
    )
    monkeypatch.setenv("TERM", "dumb")
    (tmp_path / "unillm").mkdir()

    result = cli("chat")

    assert result.exit_code == 5
    saved = json.loads((tmp_path / "unillm" / "last-chat.jsonl").read_text())
    assert saved["messages"] == [user("one"), assistant("ONE ")]
    assert "/load goes on with it" in result.stderr
