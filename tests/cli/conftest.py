# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
from typer.testing import CliRunner

import unillm
from unillm import CompletionDelta, CompletionOutput, RequestOutput, SamplingParams
from unillm.cli.app import app
from unillm.errors import PromptTooLongError
from unillm.testing import conformance
from unillm.testing.conformance import Conformance

SRC = Path(unillm.__file__).parents[1]


@attrs.define(eq=False)
class FakeHandle:
    """A request that has ended: its words come first, then its error."""

    output: RequestOutput
    error: BaseException | None = None
    is_done: bool = True
    cancelled: int = 0

    def done(self):
        return self.is_done

    def cancel(self):
        self.cancelled += 1

    def result(self):
        self.is_done = True
        if self.error is not None:
            raise self.error
        return self.output

    def __iter__(self):
        for word in self.output.text.split(" "):
            yield CompletionDelta(index=0, text=f"{word} ".rstrip("~"), token_ids=[1])
        if self.error is not None:
            raise self.error


class FakeGenerator:
    """Answers with the prompt in capitals; ``long`` is refused, `faults` fail later."""

    faults: ClassVar[dict[str, BaseException]] = {}
    default_params = SamplingParams(temperature=0.5, max_tokens=99)
    created: ClassVar[list[FakeGenerator]] = []
    limits = types.SimpleNamespace(max_model_len=8)

    def __init__(self, model, **options):
        self.model, self.options = model, options
        self.asked, self.adapters = [], []
        self.config = types.SimpleNamespace(model=model)
        self.backend = "fake"
        self.closed = False
        self.created.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed = True

    def get_default_sampling_params(self):
        return self.default_params

    def submit(self, prompt, params, *, lora_request=None, **further):
        self.asked.append((prompt, params))
        self.adapters.append(lora_request)
        if not isinstance(prompt, dict):  # of a JSON line
            prompt = {"prompt": prompt if isinstance(prompt, str) else "ids"}
        messages = prompt.get("messages")
        text = prompt.get("prompt") or (messages[-1]["content"] if messages else "ids")
        if text == "long":
            raise PromptTooLongError(
                prompt_tokens=9, max_prompt_tokens=7, max_model_len=8
            )
        count = params.n if params is not None else 1
        completions = [
            CompletionOutput(
                index=index,
                text=f"{text.upper()}{index or ''}~".rstrip("~"),
                token_ids=[1, 2],
                finish_reason="length" if text.startswith("cut") else "stop",
            )
            for index in range(count)
        ]
        output = RequestOutput(
            request_id="0",
            prompt=text,
            prompt_token_ids=[5, 6, 7],
            outputs=completions,
            finished=True,
        )
        return FakeHandle(output, self.faults.get(text))


@pytest.fixture
def fake(monkeypatch):
    """The class in the place of `unillm.Generator`; `created` has its instances."""
    monkeypatch.setattr(FakeGenerator, "created", [])
    monkeypatch.setattr(FakeGenerator, "faults", {})
    monkeypatch.setitem(vars(unillm), "Generator", FakeGenerator)
    return FakeGenerator


@pytest.fixture
def cli():
    """Run the command line in this process."""

    def run(*args, **options):
        return CliRunner().invoke(app, [str(arg) for arg in args], **options)

    return run


@pytest.fixture
def contract(monkeypatch):
    """Make a run of the contract return *results*; return its arguments."""
    arguments = {}

    def use(*results):
        def run_contract(backend, *, on_result, **given):
            arguments.update(given, backend=backend)
            for each in results if on_result else ():
                on_result(each)
            return Conformance(backend=backend, distribution="d 1", results=results)

        monkeypatch.setattr(conformance, "run_contract", run_contract)
        return arguments

    return use


@pytest.fixture
def process_environment():
    """Environment of another process, which finds the package and no hub."""
    return {**os.environ, "PYTHONPATH": str(SRC), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def process(process_environment):
    """Run the command line in a process of its own."""

    def run(*args, **options):
        return subprocess.run(
            [sys.executable, "-m", "unillm", *map(str, args)],
            env=process_environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **({"stdin": subprocess.DEVNULL} | options),
        )

    return run
