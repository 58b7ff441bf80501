# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unillm.artifacts.records import BrokenSealError, read_sealed, write_sealed

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.property
@given(content=st.dictionaries(st.text().filter(lambda name: name != "seal"), values))
def test_a_reader_gets_the_content_of_the_writer(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "file.json"
    write_sealed(path, _finite(content))

    assert read_sealed(path) == _finite(content)


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    infinite = isinstance(value, float) and value in (float("inf"), float("-inf"))
    return 0.0 if infinite else value


def test_a_single_wrong_bit_is_noticed(tmp_path):
    path = tmp_path / "file.json"
    write_sealed(path, {"text": "é/\\", "number": 0.1, "more": [None, True, -5]})
    whole = path.read_bytes()

    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(BrokenSealError):
            read_sealed(path)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"null", b'{"seal": 1}', b"[" * 100_000, b"\xff"]
)
def test_a_file_that_was_never_sealed_is_refused(tmp_path, raw):
    path = tmp_path / "file.json"
    path.write_bytes(raw)

    with pytest.raises(BrokenSealError):
        read_sealed(path)


def test_a_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "file.json"
    write_sealed(path, {"a": 1})

    with pytest.raises(TypeError):
        write_sealed(path, {"a": object()})

    assert read_sealed(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
