# SPDX-License-Identifier: Apache-2.0

"""G: calls of `Generator`: refusals, cancelling, threads, closing."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from typing import Any

import attrs
import pytest

from ... import errors
from ...engines.aspects import ASPECTS
from ...engines.base import SAMPLING_FIELDS
from ...generator import Generator
from ...params import SamplingParams
from ...runtime.handle import RequestHandle
from ...text.prompts import PromptType
from ..asking import ANSWERS, COUNT, Asker
from ..driving import DrivenEngine
from ..subject import Subject
from .clauses import clause
from .fixtures import Clauses

GREEDY = SamplingParams(temperature=0, max_tokens=64)
ENDLESS = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)

_TRIES = 50
"""A fast engine may end a request before the caller can cancel it."""

EXAMPLES: dict[str, Any] = {
    "n": 2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.2,
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 3,
    "stop_token_ids": [3],
    "ignore_eos": True,
    "max_tokens": 3,
    "min_tokens": 2,
    "logprobs": 0,
    "prompt_logprobs": 1,
    "logit_bias": {65: 2.0},
    "allowed_token_ids": list(range(512)),
    "bad_words": ["~"],
    "structured_outputs": {"regex": "[0-9 ]+"},
    "bad_words.sequences": {"bad_words": ["zebra"]},
    "logprobs.changed": {"logprobs": 0, "logit_bias": {65: 2.0}},
    "logprobs.top": {"logprobs": 1},
    "min_tokens.ignored_eos": {
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": [3],
    },
    "min_p.top_p": {"min_p": 0.1, "top_p": 0.9},
    "min_tokens.stop_ids": {"min_tokens": 2},
    **{
        f"structured_outputs.{kind}": {"structured_outputs": {kind: value}}
        for kind, value in (
            ("choice", ["4", "5"]),
            ("grammar", 'start: "4" | "5"'),
            ("json", {"type": "integer"}),
            ("json_object", True),
            ("regex", "[0-9 ]+"),
        )
    },
}
"""A value other than the default for each field that may depend on the engine, or the
fields of an aspect. The vocabulary of the bundled model is too small for a large
``top_k``, and a `Generator` gives the text of each bad word."""


class CallClauses(Clauses):
    """The core's promises to callers, on this backend."""

    @clause()
    def test_g1_too_long(self, generator: Generator) -> None:
        """A prompt that leaves no room is refused with the same message everywhere.

        Troubleshooting: The core refuses it by the engine's `limits`: see L3.
        """
        limits = generator.limits
        prompt = [10 + n % 90 for n in range(limits.longest_prompt + 1)]

        with pytest.raises(errors.PromptTooLongError) as caught:
            generator.generate(prompt, GREEDY)

        expected = errors.PromptTooLongError(
            prompt_tokens=len(prompt),
            max_prompt_tokens=limits.longest_prompt,
            max_model_len=limits.max_model_len,
            model_positions=caught.value.model_positions,
        )
        assert str(caught.value) == str(expected)

    @clause()
    def test_g2_bad_prompts_fail_alone(self, generator: Generator) -> None:
        """Bad prompts fail alone; the error names them and carries the other results.

        Troubleshooting: A refused prompt never reaches the engine.
        """
        long = [10] * (generator.limits.longest_prompt + 1)
        prompts: list[PromptType] = [COUNT, long, [999_999], COUNT]

        with pytest.raises(errors.RequestsFailedError) as caught:
            generator.generate(prompts, GREEDY, use_tqdm=False)

        kinds = {index: type(e) for index, e in caught.value.errors.items()}
        assert kinds == {1: errors.PromptTooLongError, 2: errors.InvalidPromptError}
        texts = [None if r is None else r.text for r in caught.value.results]
        assert texts == [ANSWERS[COUNT], None, None, ANSWERS[COUNT]]

    @clause()
    def test_g3_errors_returned(self, generator: Generator) -> None:
        """With ``on_error="return"`` each error takes the position of its output.

        Troubleshooting: see G2.
        """
        prompts: list[PromptType] = [COUNT, [-1, 5], "Add 17 and 25:"]

        good, bad, other = generator.generate(
            prompts, GREEDY, on_error="return", use_tqdm=False
        )

        assert isinstance(bad, errors.InvalidPromptError)
        assert [good.text, other.text] == [ANSWERS[COUNT], "42"]  # type: ignore[union-attr]

    @clause()
    def test_g4_vocabulary(self, generator: Generator) -> None:
        """Ids outside the vocabulary are refused in prompts and in params.

        Troubleshooting: The core refuses them by `EngineLimits.vocab_size`: see L5.
        """
        size = generator.limits.vocab_size
        for prompt in ([5, size], [-1]):
            with pytest.raises(errors.InvalidPromptError):
                generator.generate([prompt], GREEDY)
        with pytest.raises(errors.InvalidParameterError):
            generator.generate(COUNT, SamplingParams(stop_token_ids=[size]))

        [output] = generator.generate([[5, size - 1]], GREEDY)
        assert output.finish_reason in {"stop", "length"}

    @clause()
    def test_g5_fitting(self, generator: Generator) -> None:
        """`max_tokens` beyond the context is fitted to it, and the output says so.

        Troubleshooting: see L4.
        """
        limits = generator.limits
        prompt = [10 + n % 90 for n in range(limits.longest_prompt - 4)]
        room = limits.max_model_len - len(prompt)
        params = SamplingParams(temperature=0, max_tokens=10_000, ignore_eos=True)

        [output] = generator.generate(prompt, params)

        assert (output.fitted_max_tokens, len(output.token_ids)) == (room, room)
        assert output.finish_reason == "length"

    @clause()
    def test_g6_capabilities(self, subject: Subject) -> None:
        """A declared field is served, and an undeclared one is refused.

        The refusal is an `UnsupportedParameterError` with the field and the reason.

        Troubleshooting: The core refuses by `Capabilities`. Don't declare a field that
            the engine cannot serve.
        """
        unseen = {"top_k.large", "bad_words.sequences.ids"}
        assert set(EXAMPLES) == SAMPLING_FIELDS | ASPECTS.keys() - unseen
        greedy = not subject.declares("temperature")
        generator = subject.generator()
        for name, value in EXAMPLES.items():
            if greedy and name in {"top_p", "top_k", "min_p", "seed", "n"}:
                continue  # it does nothing without a draw
            fields: dict[str, Any] = {
                "max_tokens": 3,
                "temperature": 0 if greedy else 1,
            }
            if "." in name and not all(map(subject.declares, value)):
                continue  # refused as that field
            if name == "min_tokens" and subject.declares("min_tokens.ignored_eos"):
                # With one id that ends; more are an aspect.
                fields |= {"ignore_eos": True, "stop_token_ids": [3]}
            fields |= value if "." in name else {name: value}
            params = SamplingParams(**fields)
            if subject.declares(name):
                [output] = generator.generate(COUNT, params)
                assert output.finish_reason in {"stop", "length"}, name
                continue
            with pytest.raises(errors.UnsupportedParameterError) as caught:
                generator.generate(COUNT, params)
            assert caught.value.parameter == name.partition(".")[0]
            assert subject.capabilities.of(name).reason in str(caught.value)

    @clause()
    def test_g7_cancelling(self, generator: Generator) -> None:
        """A cancelled request ends at once with its partial output, and others go on.

        Troubleshooting: see A1 to A4.
        """
        for _ in range(_TRIES):
            handle = generator.submit(COUNT, ENDLESS)
            other = generator.submit(COUNT, GREEDY)
            next(iter(handle))
            handle.cancel()
            assert other.result(self.patience_s).text == ANSWERS[COUNT]
            _until_idle(generator, self.patience_s)
            error = _error_of(handle, self.patience_s)
            if error is not None:
                assert isinstance(error, errors.RequestCancelledError)
                assert error.output is not None
                assert error.output.text.startswith("3")
                return
        pytest.fail("every request had ended when it was cancelled")

    @clause()
    def test_g8_leaving_a_stream(self, generator: Generator) -> None:
        """Leaving a stream ends its request.

        Troubleshooting: see A2.
        """
        for _ in range(_TRIES):
            stream: Any = generator.stream(COUNT, ENDLESS)
            first = next(stream)
            stream.close()  # as leaving a loop does
            _until_idle(generator, self.patience_s)
            if first.finish_reason is None:
                return
        pytest.fail("every request had ended when its stream was left")

    @clause()
    def test_g9_deadlines(self, generator: Generator) -> None:
        """A request that misses its deadline ends with its partial output.

        Troubleshooting: The driver checks between two steps, so a step must be short.
        """
        slots = generator.limits.max_num_seqs
        busy = [generator.submit(COUNT, ENDLESS) for _ in range(slots)]

        late = generator.submit(COUNT, GREEDY, timeout_s=0.001)

        with pytest.raises(errors.RequestTimeoutError):
            late.result(self.patience_s)
        for handle in busy:
            handle.cancel()
        _until_idle(generator, self.patience_s)

    @clause()
    def test_g10_threads(self, generator: Generator) -> None:
        """Several threads use one generator at the same time.

        Troubleshooting: Only the driver's thread calls the engine: see C4.
        """
        texts: list[str] = []

        def work() -> None:
            outputs = generator.generate(list(ANSWERS), GREEDY, use_tqdm=False)
            texts.extend(output.text for output in outputs)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * self.patience_s)

        assert sorted(texts) == sorted([*ANSWERS.values()] * 4)

    @clause()
    def test_g11_event_loops(self, generator: Generator) -> None:
        """Calls in an event loop return what calls outside of one return.

        Troubleshooting: An engine must need neither the main thread nor a running loop.
        """

        async def both() -> tuple[list[str], str]:
            outputs = await generator.agenerate(list(ANSWERS), GREEDY)
            deltas = [d.text async for d in generator.astream(COUNT, GREEDY)]
            return [output.text for output in outputs], "".join(deltas)

        texts, streamed = asyncio.run(both())

        assert texts == list(ANSWERS.values())
        assert streamed == ANSWERS[COUNT]

    @clause()
    def test_g12_closing(self, subject: Subject) -> None:
        """Closing ends all requests with an error, and later requests are refused.

        Troubleshooting: see C2.
        """
        for _ in range(_TRIES):
            generator = subject.create_generator()
            handles = [generator.submit(COUNT, ENDLESS) for _ in range(9)]

            generator.close()
            generator.close()

            ended = [_error_of(handle, self.patience_s) for handle in handles]
            assert {type(error) for error in ended if error} <= {
                errors.GeneratorClosedError
            }
            with pytest.raises(errors.GeneratorClosedError):
                generator.generate(COUNT)
            if any(ended):
                return
        pytest.fail("every request had ended when the generator was closed")

    @clause()
    def test_g13_arguments_stay(self, generator: Generator) -> None:
        """A call does not change its arguments.

        Troubleshooting: see E12.
        """
        ids = list(generator.get_tokenizer().encode(COUNT))
        params = SamplingParams(temperature=0, max_tokens=5, stop_token_ids=[3])
        prompts: list[Any] = [{"prompt_token_ids": ids}, COUNT]
        before = copy.deepcopy((ids, attrs.asdict(params), prompts))

        generator.generate(prompts, params, use_tqdm=False)

        assert (ids, attrs.asdict(params), prompts) == before

    @clause()
    def test_g14_options(self, subject: Subject) -> None:
        """An unknown backend option is refused by name.

        Troubleshooting: Set `Backend.option_names`, or check the options in
            `create_engine`.
        """
        options = {**subject.options.get("backend_options", {}), "no_such_option": 1}

        with pytest.raises(errors.ConfigError, match="no_such_option"):
            subject.create_generator(backend_options=options)

    @clause()
    def test_g15_availability(self, subject: Subject) -> None:
        """A backend that can run reports itself as available and has a description.

        Troubleshooting: `availability` looks for packages and devices and loads
            nothing.
        """
        availability = subject.backend.availability()

        assert availability.available
        assert not availability.reason
        assert subject.backend.description
        assert subject.backend.name == subject.backend.name.lower()

    @clause()
    def test_g16_a_shared_engine(
        self, engine: DrivenEngine, ask: Asker, subject: Subject
    ) -> None:
        """A generator can follow an engine, and an engine can follow a generator.

        Troubleshooting: see C5.
        """
        engine.run(ask(max_tokens=2))

        [output] = subject.generator().generate(COUNT, GREEDY)

        assert output.text == ANSWERS[COUNT]


def _error_of(handle: RequestHandle, timeout_s: float) -> errors.UnillmError | None:
    """Return the error that ended a request; `None` if it ended regularly."""
    try:
        handle.result(timeout_s)
    except errors.UnillmError as error:
        return error
    return None


def _until_idle(generator: Generator, patience_s: float) -> None:
    """Wait until no request is queued or unfinished."""
    [output] = generator.generate("Add 17 and 25:", GREEDY)
    assert output.text == "42"
    until = time.monotonic() + patience_s
    while generator.stats()["queued"] or generator._driver.engine.has_unfinished():  # type: ignore[union-attr] # noqa: SLF001
        assert time.monotonic() < until, "a request is still unfinished"
        time.sleep(0.01)
