# SPDX-License-Identifier: Apache-2.0

"""Events are the same, however their bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unillm_remote._events import EventReader, TooLargeError

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
FIELDS = st.sampled_from(["data: ", "data:", ": ", "event: ", "id: ", "retry: "])


def read(*pieces):
    reader = EventReader(10_000)
    return [data for piece in pieces for data in reader.feed(piece)]


@given(st.lists(st.tuples(FIELDS, TEXTS, ENDS)), ENDS, st.data())
def test_a_cut_changes_no_event(lines, last, data):
    body = b""
    for field, text, end in lines:
        body += f"{field}{text}".encode() + end * (2 if field == "id: " else 1)
    body += last * 2
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    edges = [0, *cuts, len(body)]

    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]

    assert read(*pieces) == read(body)


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data:a\r\rdata:  b\r\n\r\n", ["a", " b"]),
        (b": comment\n\nevent: x\n\ndata: a\n\n", ["a"]),
        ("data: \u2028\u0085\x0b\n\n".encode(), ["\u2028\u0085\x0b"]),
        (b"data: never ended\n", []),
        (b"data\n\n", [""]),
    ],
)
def test_lines_end_where_the_standard_says(body, events):
    assert read(body) == events


@pytest.mark.parametrize("piece", [b"x" * 2_000, b"data: y\n" * 2_000])
def test_an_endless_event_is_refused(piece):
    with pytest.raises(TooLargeError):
        read(*[piece] * 20)
