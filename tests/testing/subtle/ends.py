# SPDX-License-Identifier: Apache-2.0

"""Engines with defects of ends, aborts and ids that come again."""

from __future__ import annotations

import attrs
from testing.broken.bases import Own

from .bases import TOKEN, subtle


@subtle("is not a stop id")
class FallsBackToItsEos(Own):
    """Ends at the tokenizer's EOS under `ignore_eos`, if the user has stop ids."""

    def add_request(self, request):
        if request.params.ignore_eos and request.params.stop_token_ids:
            ids = request.stop_token_ids | {511}
            request = self.changed(request, stop_token_ids=ids)
        super().add_request(request)


@subtle("went on")
class GoesOnAtFirst(Own):
    """Lets no stop id end a request at its first new token."""

    def _next(self, row):
        output = super()._next(row)
        if row.generated == 1 and output.finish_reason == "stop":
            if row.request.max_new_tokens == 1:
                return output
            return attrs.evolve(output, finish_reason=None, stop_token_id=None)
        return output


@subtle("is not a stop id")
class EndsAtThirtyTwo(Own):
    """Ends a request after 32 new tokens."""

    def _next(self, row):
        output = super()._next(row)
        if row.generated == 32 and output.finish_reason is None:
            return attrs.evolve(output, finish_reason="length")
        return output


@subtle("In random-")
class RemembersAborted(Own):
    """Sends the next token of an aborted request, if another one is running."""

    def abort(self, request_ids):
        rows = [self._running[each] for each in request_ids if each in self._running]
        super().abort(request_ids)
        self.sent = [row for row in rows if self._running]

    sent = ()

    def step(self):
        outputs = [self._next(row) for row in self.sent if self._running]
        self.sent = ()
        return super().step() + outputs


@subtle(TOKEN)
class GoesOnAfterAnAbort(Own):
    """Continues an aborted request where it was, when its id comes again."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.left: dict[str, int] = {}

    def abort(self, request_ids):
        self.left |= {
            each: self._running[each].generated
            for each in request_ids
            if each in self._running
        }
        super().abort(request_ids)

    def token(self, request, position):
        skipped = self.left.get(request.request_id, 0)
        if position + skipped >= request.max_new_tokens:
            skipped = 0
        return self.script(request, position + skipped)
