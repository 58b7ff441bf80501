# SPDX-License-Identifier: Apache-2.0

"""C: failures of one request, the death of an engine, and its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ...engines.base import Engine
from ...errors import EngineDeadError, RequestError
from ...params import SamplingParams
from .asking import ANSWERS, COUNT, Asker, Oracle
from .clauses import clause
from .driving import DrivenEngine
from .subject import Subject


class ClosingClauses:
    """An engine ends when it is told to, whatever it is doing."""

    @clause()
    def test_c1_closing_twice(self, subject: Subject, ask: Asker) -> None:
        """Closing an engine twice does nothing the second time.

        Troubleshooting:
            A `with` block and an explicit `close()` often come together.
        """
        engine = subject.engine()
        engine.run(ask(max_tokens=2))

        engine.close()
        engine.close()

        subject.close()

    @clause()
    def test_c2_closing_at_work(self, subject: Subject, ask: Asker) -> None:
        """An engine can be closed while requests run and wait.

        Troubleshooting:
            Don't wait for them to end: their callers have been told.
        """
        engine = subject.engine()
        engine.add(*(ask(max_tokens=150, ignore_eos=True) for _ in range(9)))
        engine.step()

        engine.close()

        subject.close()

    @clause()
    def test_c3_closing_at_once(self, subject: Subject) -> None:
        """An engine can be closed before anything was asked.

        Troubleshooting:
            What is made with the first request may not be there yet.
        """
        engine = subject.create_engine()

        engine.close()
        engine.close()

    @clause()
    def test_c4_threads(self, subject: Subject, ask: Asker, oracle: Oracle) -> None:
        """An engine is made in one thread, used in another and closed in a third.

        Troubleshooting:
            One at a time. What is bound to a thread has to be made where it is used.
        """
        made_here = subject.create_engine()
        used = DrivenEngine(made_here, subject.patience_s)
        request = ask()

        [told] = used.run(request)
        made_here.close()

        assert told.token_ids == oracle.token_ids(request)

    @clause()
    def test_c5_another(self, subject: Subject, ask: Asker, oracle: Oracle) -> None:
        """When an engine was closed, the same process can make another one.

        Troubleshooting:
            Close what is global too: process groups, distributed state, caches.
        """
        subject.engine().run(ask(max_tokens=2))
        subject.close()
        request = ask()

        [told] = subject.engine().run(request)

        assert told.token_ids == oracle.token_ids(request)

    @clause("allowed_token_ids", "min_tokens")
    def test_c6_failing_alone(
        self, engine: DrivenEngine, ask: Asker, oracle: Oracle
    ) -> None:
        """A request that cannot go on fails alone; the others never notice.

        It ends with "error" and says why, or `add_request` refuses it.

        Troubleshooting:
            The one here allows an end id alone and forbids it by `min_tokens`. An
            exception out of `step` would end all the others.
        """
        others = ask.different(3)
        end = ask.primary_end_id
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

        told = [engine.told(request).token_ids for request in others]
        assert told == [oracle.token_ids(request) for request in others]
        if not refused:
            assert engine.told(impossible).finish_reasons == ["error"]
            assert engine.told(impossible).outputs[-1].error

    @clause()
    def test_c7_death(
        self,
        subject: Subject,
        kill: Callable[[Engine], None] | None,
        soon_s: float,
    ) -> None:
        """When an engine dies, every waiter is told, and later requests are refused.

        Troubleshooting:
            An exception out of `step` says that the engine is dead. An engine whose
            process is gone must not wait for an answer.
        """
        if kill is None:
            pytest.skip("no way to kill the engine was given")
        generator = subject.create_generator()
        params = SamplingParams(temperature=0, max_tokens=150, ignore_eos=True)
        try:
            handles = [generator.submit(prompt, params) for prompt in ANSWERS]
            next(iter(handles[0]))

            kill(generator._driver.engine)  # type: ignore[union-attr] # noqa: SLF001

            for handle in handles:
                with pytest.raises(EngineDeadError):
                    handle.result(timeout=soon_s)
            with pytest.raises(EngineDeadError):
                generator.generate(COUNT, params)
        finally:
            generator.close()
