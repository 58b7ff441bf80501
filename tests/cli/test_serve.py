# SPDX-License-Identifier: Apache-2.0

"""The generator that ``unillm serve`` makes."""

from __future__ import annotations

import pytest

from unillm.cli.serve import _generator, _keys_of_environment
from unillm.testing import backends, scripted


class ForServers(backends.ScriptedBackend):
    """A backend with an option for servers."""

    option_names = frozenset({"processes", "other"})

    @property
    def server_options(self):
        return {"processes": True}


def engine(config):
    return scripted.ScriptedEngine(lambda *_: 5, max_model_len=64, vocab_size=512)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, {"processes": True}),
        ({"other": 1}, {"processes": True, "other": 1}),
        ({"processes": False}, {"processes": False}),
    ],
)
def test_a_server_sets_what_its_backend_asks_for_unless_the_user_does(given, used):
    with (
        backends.plugged(ForServers(engine)),
        _generator("unillm/tiny", backend="scripted", backend_options=given) as made,
    ):
        assert dict(made.config.backend_options) == used


@pytest.mark.parametrize(("given", "keys"), [("secret\n", ["secret"]), ("\n", [])])
def test_the_newline_at_the_end_of_a_keys_file_is_not_of_the_key(
    monkeypatch, given, keys
):
    monkeypatch.setenv("UNILLM_API_KEY", given)

    assert _keys_of_environment() == keys
