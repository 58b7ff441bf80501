# SPDX-License-Identifier: Apache-2.0

"""The answerer of one actor, without Ray."""

from __future__ import annotations

import json
import threading

from questions import TINY
from unillm_ray._lines import LineAnswerer

from unillm.jobs import Line


def test_groups_wait_for_a_queue_that_others_fill():
    options = {**TINY, "max_num_seqs": 1, "max_queued_requests": 1}
    answerer = LineAnswerer("unillm/tiny", {}, options)
    fields = {"prompt": "Once", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    body = json.dumps(fields).encode()
    found = []

    def answer(index):
        line = Line(index, "/v1/completions", body, "id", 1, 5, is_row=True)
        found.extend(answerer.answer([line]))

    threads = [
        threading.Thread(target=answer, args=[index], daemon=True) for index in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(answer.index for answer in found) == list(range(6))
    assert {answer.num_new_tokens for answer in found} == {60}
