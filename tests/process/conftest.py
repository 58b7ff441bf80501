# SPDX-License-Identifier: Apache-2.0

"""Interpreters with the backends of ``plugin``, which this one does not have."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import unillm
from unillm import Generator

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    """Install ``pipe`` and ``reference`` for processes that are started from here."""
    info = tmp_path / "site" / "pipe-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pipe\nVersion: 1.0\n")
    entries = "[unillm]\npipe = unillm_pipe\nreference = unillm_pipe\n"
    (info / "entry_points.txt").write_text(entries)
    source = Path(unillm.__file__).parents[1]
    path = os.pathsep.join(map(str, (source, info.parent, HERE / "plugin")))
    monkeypatch.setenv("PYTHONPATH", path)


@pytest.fixture
def open_pipe():
    """Return a function that creates generators on ``pipe``, which are closed."""
    created = []

    def create(backend="pipe", *, step_timeout_s=60.0, **options):
        generator = Generator(
            "unillm/tiny",
            backend=backend,
            python=sys.executable,
            step_timeout_s=step_timeout_s,
            max_num_seqs=64,
            backend_options=options,
        )
        created.append(generator)
        return generator

    yield create
    for generator in created:
        generator.close()


@pytest.fixture
def interpreter(tmp_path):
    """Return a function that makes an interpreter of the lines of a shell script."""

    def make(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)
        return str(path)

    return make
