# SPDX-License-Identifier: Apache-2.0

"""The report of `/activity` on a request that ends while it is read."""

from __future__ import annotations

import unillm
from unillm.server.activity import Activity


class EndsWhileRead:
    """A handle of a request that ends right after its output was read once."""

    def __init__(self):
        self._token_ids, self._reason = [7], None

    def done(self):
        return self._reason is not None

    def output(self):
        found = unillm.CompletionOutput(
            index=0, text="", token_ids=self._token_ids, finish_reason=self._reason
        )
        self._token_ids, self._reason = [7, 8, 9], "stop"
        return unillm.RequestOutput(
            request_id="0",
            prompt=None,
            prompt_token_ids=[1, 2],
            outputs=[found],
            finished=found.finished(),
        )


def test_a_request_that_ends_while_it_is_read_is_read_again():
    activity = Activity()
    activity.add("a", [EndsWhileRead()])

    reports = [activity.report(num_slots=1, stats={}).requests for _ in range(3)]

    assert [(each.done, each.tokens, each.reason) for [each] in reports] == [
        (False, 1, None),
        (True, 3, "stop"),
        (True, 3, "stop"),
    ]
