# SPDX-License-Identifier: Apache-2.0

"""C: the failure of a request, the crash of an engine, and closing."""

from __future__ import annotations

import pytest

from ...errors import EngineDeadError, RequestError
from ...params import SamplingParams
from ..asking import ANSWERS, COUNT, Asker
from ..driving import DrivenEngine
from ..subject import Subject
from .clauses import clause
from .fixtures import Clauses


class ClosingClauses(Clauses):
    """An engine closes at any moment, and its failures reach the callers."""

    @clause()
    def test_c1_closing_twice(self, subject: Subject, ask: Asker) -> None:
        """Closing an engine twice does nothing the second time.

        Troubleshooting: A `with` block and an explicit `close()` often meet.
        """
        engine = subject.engine()
        engine.run(ask(max_tokens=2))

        engine.close()
        engine.close()

        subject.close()

    @clause()
    def test_c2_closing_at_work(self, subject: Subject, ask: Asker) -> None:
        """An engine can be closed while requests run and wait.

        Troubleshooting: Don't wait for them: their callers have the error already.
        """
        engine = subject.engine()
        engine.add(*(ask(max_tokens=150, ignore_eos=True) for _ in range(9)))
        engine.step()

        engine.close()

        subject.close()

    @clause()
    def test_c3_closing_at_once(self, subject: Subject) -> None:
        """An engine can be closed before its first request.

        Troubleshooting: Objects that the first request creates may be missing.
        """
        engine = subject.create_engine()

        engine.close()
        engine.close()

    @clause()
    def test_c4_threads(self, subject: Subject, ask: Asker) -> None:
        """An engine is created in one thread, used in another and closed in a third.

        Troubleshooting: One thread at a time. Create thread-bound objects where they
            are used.
        """
        made_here = subject.create_engine()
        used = DrivenEngine(made_here, subject.patience_s)
        request = ask()

        [result] = used.run(request)
        made_here.close()

        assert result.token_ids == ask.answer(request)

    @clause()
    def test_c5_another(self, subject: Subject, ask: Asker) -> None:
        """After an engine was closed, the same process can create another one.

        Troubleshooting: Close global state too: process groups, distributed state,
            caches.
        """
        subject.engine().run(ask(max_tokens=2))
        subject.close()
        request = ask()

        [result] = subject.engine().run(request)

        assert result.token_ids == ask.answer(request)

    @clause("allowed_token_ids", "min_tokens.stop_ids")
    def test_c6_failing_alone(self, engine: DrivenEngine, ask: Asker) -> None:
        """A request that cannot go on fails alone; the others are unaffected.

        It ends with "error" and a reason, or `add_request` refuses it.

        Troubleshooting: The request here allows one EOS id alone and forbids it by
            `min_tokens`. An exception out of `step` would end all others.
        """
        others = ask.different(3)
        end = ask.primary_eos_id
        impossible = ask(
            allowed_token_ids=[end], stop_token_ids=[end], min_tokens=4, max_tokens=8
        )
        engine.add(others[0])
        engine.step()

        try:
            engine.add(impossible)
            refused = False
        except RequestError:
            refused = True
        engine.add(*others[1:])
        engine.finish()

        assert engine.ids(others) == ask.answers(others)
        if not refused:
            assert engine.result(impossible).finish_reasons == ["error"]
            assert engine.result(impossible).outputs[-1].error

    @clause()
    def test_c7_death(self, subject: Subject) -> None:
        """When an engine dies, every waiting call raises, and so do later requests.

        Troubleshooting: An exception out of `step` means that the engine is dead. An
            engine whose process is gone must not wait for its answer.
        """
        if self.kill_engine is None:
            pytest.skip("`kill_engine` is not set")
        generator = subject.create_generator()
        params = SamplingParams(temperature=0, max_tokens=150, ignore_eos=True)
        try:
            handles = [generator.submit(prompt, params) for prompt in ANSWERS]
            next(iter(handles[0]))

            self.kill_engine(generator._driver.engine)  # type: ignore[union-attr] # noqa: SLF001

            for handle in handles:
                with pytest.raises(EngineDeadError):
                    handle.result(timeout=self.patience_s)
            with pytest.raises(EngineDeadError):
                generator.generate(COUNT, params)
        finally:
            generator.close()
