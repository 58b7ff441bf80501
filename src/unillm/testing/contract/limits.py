# SPDX-License-Identifier: Apache-2.0

"""L: the numbers that an engine declares."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import pytest

from ...engines.aspects import ASPECTS
from ...engines.base import FEATURES, SAMPLING_FIELDS, Support
from ..asking import COUNT, Asker
from ..driving import DrivenEngine
from ..subject import Subject
from .clauses import clause
from .fixtures import Clauses


class LimitClauses(Clauses):
    """The core checks requests against these numbers."""

    @clause()
    def test_l1_limits(self, engine: DrivenEngine, ask: Asker) -> None:
        """The limits are positive and constant.

        Troubleshooting: The core reads them once, when the generator is created.
        """
        before = engine.limits
        engine.run(*ask.different(3))

        assert engine.limits == before
        assert before.max_num_seqs >= 1
        assert before.vocab_size >= 1
        assert 1 <= before.longest_prompt < before.max_model_len

    @clause()
    def test_l2_options(self, engine: DrivenEngine, subject: Subject) -> None:
        """No limit exceeds the option that the generator was given.

        Troubleshooting: Every backend honours `max_model_len` and `max_num_seqs`.
        """
        assert engine.limits.max_model_len <= subject.options["max_model_len"]
        assert engine.limits.max_num_seqs <= subject.options["max_num_seqs"]

    @clause()
    def test_l3_longest_prompt(self, subject: Subject, ask: Asker) -> None:
        """A prompt as long as the limits allow is served whole.

        Troubleshooting: If it is refused, `max_prompt_len` is too large. If the token
            is wrong, the engine truncated the prompt.
        """
        prompt = _any_ids(subject.engine().limits.longest_prompt)
        tells = subject.capabilities.of("logprobs").support is not Support.UNSUPPORTED
        request = ask(prompt, max_tokens=1, logprobs=0 if tells else None)

        [result] = subject.engine().run(request)

        assert result.token_ids == ask.answer(request)
        if tells:  # which a token more or less at the start changes
            expected = ask.model.logprobs(prompt)[result.token_ids[0]]
            assert result.logprobs[0].logprob == pytest.approx(
                expected, abs=self.logprob_tolerance
            )

    @clause()
    def test_l4_context(self, engine: DrivenEngine, ask: Asker) -> None:
        """Prompt and new tokens together may fill `max_model_len`.

        Troubleshooting: The core fits `max_new_tokens` to the limits. The last token
            needs no position in the cache.
        """
        limits = engine.limits
        prompt = (ask.ids(COUNT) * limits.max_model_len)[: limits.longest_prompt - 12]
        room = limits.max_model_len - len(prompt)

        results = engine.run(
            *(ask(prompt, max_tokens=room, ignore_eos=True) for _ in range(2))
        )

        assert [len(each.token_ids) for each in results] == [room] * 2

    @clause()
    def test_l5_vocabulary(self, engine: DrivenEngine, ask: Asker) -> None:
        """Every id below `vocab_size` may be in a prompt, and every new id is below it.

        Troubleshooting: It is the number of rows of the embedding, padding included.
        """
        size = engine.limits.vocab_size
        results = engine.run(
            *(
                ask(range(start, min(start + 100, size)), max_tokens=2, ignore_eos=True)
                for start in range(0, size, 100)
            )
        )

        assert [len(each.token_ids) for each in results] == [2] * len(results)
        assert all(0 <= i < size for each in results for i in each.token_ids)

    @clause()
    def test_l6_slots(self, engine: DrivenEngine, ask: Asker) -> None:
        """At most `max_num_seqs` requests have started and not ended.

        Troubleshooting: The limit counts the requests that the engine works on, not
            those that wait.
        """
        requests = [ask(max_tokens=6) for _ in range(3 * engine.limits.max_num_seqs)]
        engine.add(*requests)

        most = 0
        while engine.unfinished:
            engine.step()
            results = [engine.result(request) for request in requests]
            begun = sum(bool(t.token_ids) and t.finish_reason is None for t in results)
            most = max(most, begun)

        assert 1 <= most <= engine.limits.max_num_seqs

    @clause()
    def test_l7_capabilities(self, subject: Subject) -> None:
        """Capabilities name sampling fields, with a reason where one is not native.

        Troubleshooting: The user reads the reason in the error.
        """
        capabilities = subject.capabilities
        assert set(capabilities.fields) <= SAMPLING_FIELDS | FEATURES | set(ASPECTS)
        for name, capability in capabilities.fields.items():
            assert isinstance(capability.support, Support), name
            native = capability.support is Support.NATIVE
            assert native or capability.reason.strip(), name

    @clause()
    def test_l8_stats(self, engine: DrivenEngine, ask: Asker) -> None:
        """`stats` returns JSON values at any moment, in any thread.

        Troubleshooting: A caller may ask while another thread steps. Read counters;
            call no engine.
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
    def test_l9_cached_tokens(self, engine: DrivenEngine, ask: Asker) -> None:
        """`num_cached_tokens` counts prompt tokens that were not computed again.

        A prefix cache changes no token.

        Troubleshooting: 0 without a prefix cache. At least the last prompt token is
            always computed.
        """
        prompt = ask.ids(COUNT) * 12
        requests = [ask(prompt + ask.ids("Add 8 and 30:")) for _ in range(2)]
        plain = ask("Add 8 and 30:")

        for request in (*requests, plain):
            [result] = engine.run(request)

            for output in result.outputs:
                cached = output.num_cached_tokens
                assert isinstance(cached, int)
                assert 0 <= cached < len(request.prompt_token_ids)
        assert engine.result(plain).token_ids == ask.answer(plain)
        first, second = (engine.result(request).token_ids for request in requests)
        assert first == second


def _any_ids(count: int) -> list[int]:
    """Return meaningless ids after which the model still has a clear answer."""
    numbers = random.Random(9)
    return [505, *(numbers.randrange(10, 500) for _ in range(count - 1))]
