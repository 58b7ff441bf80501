# SPDX-License-Identifier: Apache-2.0

"""The wait for an engine on a terminal. `test_tiny` shows that a pipe gets nothing."""

from __future__ import annotations

import sys

import pexpect
from scripted_hub import Hub, running

from unillm.model.find import BUNDLED

ARGS = ["-m", "unillm", "generate", "Count from 3 to 9:"]


def test_a_terminal_shows_the_phases_and_then_the_text_alone(process_environment):
    child = pexpect.spawn(
        sys.executable,
        ARGS,
        env={**process_environment, "TERM": "xterm-256color"},
        dimensions=(24, 100),
        encoding="utf-8",
        timeout=120,
    )

    child.expect("importing torch and transformers")
    child.expect(r"\d:\d\d:\d\d")
    child.expect_exact("3 4 5 6 7 8 9")
    between = child.before
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0
    assert between.endswith("\r\x1b[2K\x1b[?25h\r")  # erased, and the cursor is back
    assert child.before.strip() == ""


def test_a_terminal_shows_the_progress_of_a_download(process_environment, tmp_path):
    files = {file.name: file.read_bytes() for file in BUNDLED["unillm/tiny"].iterdir()}
    with running(Hub({"some/model": files})) as hub:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "unillm", "inspect", "some/model"],
            env={
                **process_environment,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path),
                "HF_HUB_OFFLINE": "0",
                "NO_PROXY": "127.0.0.1",
                "TERM": "xterm-256color",
            },
            dimensions=(40, 120),
            encoding="utf-8",
            timeout=60,
        )
        child.expect("Fetching 6 files: 100%")
        child.expect("LlamaForCausalLM")
        child.expect(pexpect.EOF)
        child.close()

    assert child.exitstatus == 0
