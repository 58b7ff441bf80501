# SPDX-License-Identifier: Apache-2.0

"""A chat with the bundled model: at a terminal of its own, and through pipes."""

from __future__ import annotations

import json
import stat

import pytest
from cli.screen import CTRL_C, CTRL_D, ENTER, UP, Screen

import unillm

COUNT = "Count from 3 to 9:"
ANSWER = "3 4 5 6 7 8 9"


@pytest.fixture
def chat(process_environment, tmp_path):
    """Start a chat at a terminal and wait for its prompt; it is ended afterwards."""
    started = []
    environment = {**process_environment, "XDG_STATE_HOME": str(tmp_path)}

    def start(*args, **size):
        started.append(Screen(["chat", *args], environment, **size))
        started[-1].wait_for(lambda text: text.endswith("\n>"))
        return started[-1]

    yield start
    for each in started:
        each.close()


# ------------------------------------------------------------------------- a terminal


def test_a_chat_at_a_terminal(chat, tmp_path):
    """One process, because each takes seconds: keys, pastes, commands, the end."""
    screen = chat("--max-model-len", "96")
    banner = screen.text
    assert "unillm/tiny on transformers" in banner
    assert "  Spell the word apple:" in banner
    assert "unillm chat --model Qwen/" in banner

    screen.type(COUNT, ENTER)
    shown = screen.wait_for(lambda text: text.endswith(f"{ANSWER}\n\n>"))
    assert shown.splitlines()[-4:] == [f"> {COUNT}", ANSWER, "", ">"]

    screen.type("half a mess")
    screen.wait_for("> half a mess")
    screen.type(CTRL_C)  # clears the line
    screen.wait_for(lambda text: text.endswith(f"{ANSWER}\n\n>"))
    screen.type(CTRL_C)  # there is nothing to clear
    screen.wait_for("Ctrl-D or /exit leaves the chat.\n\n>")

    screen.type("\x1b[200~Repeat: one\ntwo:\x1b[201~")
    screen.wait_for("> Repeat: one\n| two:")
    screen.type(ENTER)
    screen.wait_for(lambda text: text.endswith("\n>") and "| two:" in text)
    screen.type('"""Add 1', ENTER)
    screen.wait_for(lambda text: text.endswith('> """Add 1\n|'))
    screen.type(CTRL_C, "/regenerate", ENTER)
    screen.wait_for("temperature=0 gives the same answer each time; /params changes")
    file = tmp_path / "talk.jsonl"
    screen.type(f"/save {file}", ENTER)
    screen.wait_for("saved to")
    messages = json.loads(file.read_text())["messages"]
    assert [each["content"] for each in messages[:3]] == [
        *(COUNT, ANSWER, "Repeat: one\ntwo:"),
    ]

    screen.type("/reset", ENTER, "/params max_tokens=5", ENTER, COUNT, ENTER)
    screen.wait_for("ended after 5 tokens; /params max_tokens=… allows more")
    screen.type("Repeat: " + "word " * 100, ENTER)
    screen.wait_for(lambda text: "at most 95 fit" in text and text.endswith("\n>"))
    screen.type(CTRL_D)

    assert screen.end() == 0  # the user has seen the error


def test_ctrl_c_stops_the_answer_and_the_next_chat_has_the_messages(chat, tmp_path):
    screen = chat("--ignore-eos", "--max-tokens", "900", columns=44)

    screen.type(COUNT, ENTER)
    screen.wait_for(f"> {COUNT}\n3 4 5 6")
    screen.type(CTRL_C)
    stopped = screen.wait_for("stopped; the answer until then is")
    screen.type("/params ignore_eos=false max_tokens=4", ENTER)
    screen.type(COUNT, ENTER)
    screen.wait_for("ended after 4 tokens")
    screen.type("/exit", ENTER)  # perhaps before there is a prompt: it is not lost
    assert screen.end() == 0
    again = chat()
    again.type(UP, UP)
    again.wait_for(f"\n> {COUNT}")
    again.type(CTRL_C, CTRL_D)

    answer = stopped.split(f"> {COUNT}\n")[1].split("\nnote:")[0].rstrip()
    assert answer.startswith("3 4 5 6")
    assert len(answer) < 900
    drawn = answer.splitlines()
    assert drawn.count(drawn[0]) == 1
    assert again.end() == 0
    history = tmp_path / "unillm" / "chat-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700


# ---------------------------------------------------------------------------- a pipe


def test_the_library_gives_the_same_answers_to_the_same_history(cli):
    history = [
        {"role": "system", "content": "You are a friendly robot."},
        {"role": "user", "content": COUNT},
    ]
    with unillm.Generator("unillm/tiny") as generator:
        [first] = generator.chat(history)
        history += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "Add 20 and 22:"},
        ]
        [second] = generator.chat(history)

    result = cli(
        *("chat", "--system", history[0]["content"]),
        input=f"{COUNT}\nAdd 20 and 22:\n",
    )

    assert result.stdout == f"{first.text}\n{second.text}\n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_a_reset_makes_room_in_a_full_context(cli):
    turns = [f"{COUNT}\n"] * 12

    full = cli("chat", "--max-model-len", 96, input="".join(turns))
    reset = cli("chat", "--max-model-len", 96, input="/reset\n".join(turns))

    assert "The conversation with it has " in full.stderr
    assert "at most 95 fit" in full.stderr
    assert "/reset for a new conversation" in full.stderr
    assert full.exit_code == 1
    assert "error" not in reset.stderr
    assert reset.exit_code == 0


def test_params_that_only_the_engine_refuses_change_nothing(cli):
    result = cli(
        *("chat", "--max-tokens", 2),
        input=f"/params stop_token_ids=[123456] max_tokens=9\n/params\n{COUNT}\n",
    )

    assert "123456, out of vocabulary" in result.stderr
    assert "max_tokens=2\n" in result.stderr
    assert result.exit_code == 1


def test_bytes_that_are_not_utf8_are_refused_and_the_chat_continues(cli):
    result = cli("chat", input=b"gr\xfcn\nAdd 20 and 22:\n")

    assert "not valid Unicode" in result.stderr
    assert result.stdout == "42\n"
    assert result.exit_code == 1
