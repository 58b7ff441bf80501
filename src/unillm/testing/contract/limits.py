# SPDX-License-Identifier: Apache-2.0

"""L: what an engine says of itself."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import pytest

from ...engines.base import FEATURES, SAMPLING_FIELDS, Support
from .asking import COUNT, Asker, Oracle
from .clauses import clause
from .driving import DrivenEngine
from .subject import Subject


class LimitClauses:
    """The core checks requests against these numbers, so they have to be true."""

    @clause()
    def test_l1_limits(self, engine: DrivenEngine, ask: Asker) -> None:
        """The limits are positive and constant.

        Troubleshooting:
            They are asked once, when the generator is created.
        """
        before = engine.limits
        engine.run(*ask.different(3))

        assert engine.limits == before
        assert before.max_num_seqs >= 1
        assert before.vocab_size >= 1
        assert 1 <= before.longest_prompt < before.max_model_len

    @clause()
    def test_l2_options(self, engine: DrivenEngine, subject: Subject) -> None:
        """No limit is more than what the generator was asked for.

        Troubleshooting:
            `max_model_len` and `max_num_seqs` are options that every backend honours.
        """
        assert engine.limits.max_model_len <= subject.options["max_model_len"]
        assert engine.limits.max_num_seqs <= subject.options["max_num_seqs"]

    @clause()
    def test_l3_longest_prompt(
        self, subject: Subject, ask: Asker, oracle: Oracle, tolerance: float
    ) -> None:
        """A prompt as long as the limits allow is served whole, and not cut.

        Troubleshooting:
            If it is refused, `max_prompt_len` says too much. If the token is wrong, the
            prompt was cut in silence.
        """
        prompt = _any_ids(subject.engine().limits.longest_prompt)
        tells = subject.capabilities.of("logprobs").support is not Support.UNSUPPORTED
        request = ask(prompt, max_tokens=1, logprobs=0 if tells else None)

        [told] = subject.engine().run(request)

        assert told.token_ids == oracle.token_ids(request)
        if tells:  # which a token more or less at the start changes
            expected = oracle.model.logprobs(prompt)[told.token_ids[0]]
            assert told.logprobs[0].logprob == pytest.approx(expected, abs=tolerance)

    @clause()
    def test_l4_context(self, engine: DrivenEngine, ask: Asker) -> None:
        """Prompt and new tokens together may fill `max_model_len`.

        Troubleshooting:
            `max_new_tokens` is fitted to the limits by the core. The last token needs
            no place in the cache.
        """
        limits = engine.limits
        prompt = (ask.ids(COUNT) * limits.max_model_len)[: limits.longest_prompt - 12]
        room = limits.max_model_len - len(prompt)

        told = engine.run(
            *(ask(prompt, max_tokens=room, ignore_eos=True) for _ in range(2))
        )

        assert [len(each.token_ids) for each in told] == [room] * 2

    @clause()
    def test_l5_vocabulary(self, engine: DrivenEngine, ask: Asker) -> None:
        """Every id below `vocab_size` may be in a prompt, and new ids are below it.

        Troubleshooting:
            It is the number of rows of the embedding, padding included.
        """
        size = engine.limits.vocab_size
        told = engine.run(
            *(
                ask(range(start, min(start + 100, size)), max_tokens=2, ignore_eos=True)
                for start in range(0, size, 100)
            )
        )

        assert [len(each.token_ids) for each in told] == [2] * len(told)
        assert all(0 <= i < size for each in told for i in each.token_ids)

    @clause()
    def test_l6_places(self, engine: DrivenEngine, ask: Asker) -> None:
        """At most `max_num_seqs` requests have begun and not ended.

        Troubleshooting:
            It is what the engine works on at the same time, not what it may be given.
        """
        requests = [ask(max_tokens=6) for _ in range(3 * engine.limits.max_num_seqs)]
        engine.add(*requests)

        most = 0
        while engine.unfinished:
            engine.step()
            told = [engine.told(request) for request in requests]
            begun = sum(bool(t.token_ids) and t.finish_reason is None for t in told)
            most = max(most, begun)

        assert 1 <= most <= engine.limits.max_num_seqs

    @clause()
    def test_l7_capabilities(self, subject: Subject) -> None:
        """Capabilities name sampling fields, and say why where one is not native.

        Troubleshooting:
            The reason stands in the error that a user reads.
        """
        capabilities = subject.capabilities
        assert set(capabilities.fields) <= SAMPLING_FIELDS | FEATURES
        for name, capability in capabilities.fields.items():
            assert isinstance(capability.support, Support), name
            native = capability.support is Support.NATIVE
            assert native or capability.reason.strip(), name

    @clause()
    def test_l8_stats(self, engine: DrivenEngine, ask: Asker) -> None:
        """`stats` gives JSON values at any moment, to any thread.

        Troubleshooting:
            A user asks while another thread steps. Read counters, call no engine.
        """
        found: list[Any] = []

        def look() -> None:
            try:
                json.dumps(dict(engine.engine.stats()))
            except Exception as error:  # noqa: BLE001 - whatever it is, it fails
                found.append(error)

        look()
        engine.add(*ask.different(6))
        while engine.unfinished:
            thread = threading.Thread(target=look)
            thread.start()
            engine.step()
            thread.join(10)
            assert not thread.is_alive()

        assert found == []

    @clause()
    def test_l9_cached_tokens(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """`num_cached_tokens` counts tokens of the prompt that were not computed again.

        What a prefix cache has saved changes nothing that is said.

        Troubleshooting:
            0 without a prefix cache. At least the last token is always computed.
        """
        prompt = ask.ids(COUNT) * 12
        requests = [ask(prompt + ask.ids("Add 8 and 30:")) for _ in range(2)]
        plain = ask("Add 8 and 30:")

        for request in (*requests, plain):
            [told] = engine.run(request)

            for output in told.outputs:
                cached = output.num_cached_tokens
                assert isinstance(cached, int)
                assert 0 <= cached < len(request.prompt_token_ids)
        assert engine.told(plain).token_ids == oracle.token_ids(plain)
        first, second = (engine.told(request).token_ids for request in requests)
        assert first == second


def _any_ids(count: int) -> list[int]:
    """Return ids without a sense, after which the model is sure all the same."""
    numbers = random.Random(9)
    return [505, *(numbers.randrange(10, 500) for _ in range(count - 1))]
