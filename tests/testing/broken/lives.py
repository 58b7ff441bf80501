# SPDX-License-Identifier: Apache-2.0

"""Engines that fail, die or close in the wrong way."""

from __future__ import annotations

import threading
import time

from .bases import Own, broken


@broken("C1", "C3")
class ClosesOnce(Own):
    """Raises when it is closed for the second time."""

    def close(self):
        assert ("close",) not in self.calls, "it is closed"
        super().close()


@broken("C2", patience_s=0.5)
class WaitsForTheEnd(Own):
    """Waits in `close` for requests that cannot end."""

    def close(self):
        if self.has_unfinished() and ("close",) not in self.calls:
            threading.Event().wait(1.5)
        super().close()


@broken("C3")
class CannotCloseUnused(Own):
    """Frees an object that only the first request creates."""

    def close(self):
        assert any(call[0] == "add" for call in self.calls), "nothing to free"
        super().close()


@broken("C4")
class BelongsToAThread(Own):
    """Can be closed only in the thread that used it."""

    user = None

    def step(self):
        self.user = threading.get_ident()
        return super().step()

    def close(self):
        assert self.user in {None, threading.get_ident()}, "another thread's"
        super().close()


@broken("C6")
class DiesOfOneRequest(Own):
    """Raises in `step` for a request that cannot go on."""

    def _next(self, row):
        output = super()._next(row)
        assert output.error is None, output.error
        return output


@broken("C6")
class StopsInSilence(Own):
    """Ends a request that cannot go on with "length" instead of "error"."""

    def _next(self, row):
        import attrs

        output = super()._next(row)
        if output.error is None:
            return output
        return attrs.evolve(output, finish_reason="length", error=None)


def hang(engine):
    """Make an engine wait for a process that is gone."""
    engine.step = lambda: time.sleep(2)


@broken("C7", kill_engine=staticmethod(hang), patience_s=0.5)
class HangsWhenItDies(Own):
    """Waits for an answer of a process that is gone."""
