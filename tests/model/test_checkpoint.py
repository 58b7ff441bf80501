# SPDX-License-Identifier: Apache-2.0

"""JSON files of a model directory."""

from __future__ import annotations

import pytest

from unillm.errors import ModelLoadError
from unillm.files import read_json


def test_a_missing_file_is_none(tmp_path):
    assert read_json(tmp_path, "generation_config.json") is None


@pytest.mark.parametrize(
    "content", [b'{"eos_token_id": ', b"[1]", b"\xff\xfe\xff", b""]
)
def test_an_error_names_the_file_that_holds_no_json_object(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(ModelLoadError, match=r"config\.json .* JSON"):
        read_json(tmp_path, "config.json")
