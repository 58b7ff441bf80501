# SPDX-License-Identifier: Apache-2.0

"""`unillm plan`, `unillm build` and `unillm cache`, on a backend that builds."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
from artifacts import scripted_backend

from unillm import plugins
from unillm.cli.sizes import parse_size
from unillm.errors import ConfigError

TINY = "unillm/tiny"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The scripted backend is installed; the cache is empty."""
    monkeypatch.setitem(plugins.EMBEDDED, "scripted", "artifacts.scripted_backend")
    monkeypatch.setenv("UNILLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


@pytest.fixture
def run(cli):
    """Run a command on the scripted backend; it must end with the given code."""

    def run(command, *args, code=0):
        result = cli(command, TINY, "--backend", "scripted", *args)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def found(run):
    """The JSON of a command."""
    return lambda *args, **options: json.loads(run(*args, "--json", **options).stdout)


def table(result):
    """The lines of names and values."""
    lines = (line.split("  ", 1) for line in result.stdout.splitlines())
    return {name.strip(): value.strip() for name, value in lines}


# ------------------------------------------------------------------------------- build


def test_build_prints_where_the_engine_is(run, cache):
    result = run("build")

    path = Path(result.stdout.strip())
    assert [path / "engine.bin"] == list(path.iterdir())
    assert path.parents[1] == cache / "entries"
    assert "note: Building the scripted engine for unillm/tiny: 50 %" in result.stderr
    assert "note: Built in" in result.stderr


def test_a_second_build_finds_the_first(found):
    first, second = found("build"), found("build")

    assert first["built"]
    assert not second["built"]
    assert first["path"] == second["path"]
    assert second["spec"]["max_seq_len"] == 512


def test_a_larger_engine_serves_and_is_named(run):
    run("build", "--max-model-len", 1024)

    result = run("build", "--max-model-len", 100)

    assert "note: The scripted engine for unillm/tiny that was built" in result.stderr
    assert "max_seq_len=1024 serves 100." in result.stderr
    assert "note: It was there" in result.stderr


def test_a_damaged_engine_is_a_warning(run, found, cache):
    file = Path(found("build")["path"]) / "engine.bin"
    file.unlink()

    result = run("build")

    assert "warning: The prepared engine" in result.stderr
    assert "engine.bin is missing" in result.stderr
    assert file.exists()


def test_a_failed_build_is_an_engines_error(run, monkeypatch):
    monkeypatch.setattr(scripted_backend, "FAULT", OSError(28, "No space left"))

    result = run("build", code=5)

    assert result.stdout == ""
    assert "error: No engine could be built for 'unillm/tiny'" in result.stderr
    assert "UNILLM_CACHE" in result.stderr


def test_an_engine_that_is_not_installed_builds_nothing(run, monkeypatch):
    monkeypatch.setattr(scripted_backend, "ENGINE_VERSION", None)

    assert "it is not installed" in run("build", code=4).stderr


def test_a_backend_that_builds_nothing_says_so(cli):
    result = cli("build", TINY, "--backend", "transformers")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "there is nothing to build" in result.stderr


# -------------------------------------------------------------------------------- plan


def test_a_plan_before_the_first_build(run):
    facts = table(run("plan"))

    assert facts["engine"] == "would be built; there is none for this model and backend"
    assert facts["built before"].startswith("never")
    assert facts["cache"] == "4.0 MiB for 4 requests of 512 tokens"
    assert "--gpu-memory says whether" in facts["memory"]


def test_a_plan_for_1024_tokens_shows_the_difference_and_the_cost(run, found):
    key = found("build", "--max-model-len", 512)["key"]

    facts = table(run("plan", "--max-model-len", 1024, "--gpu-memory", "24GiB"))

    assert facts["engine"] == (
        f"would be built; the nearest is {key[:12]}: max_seq_len 512 → 1024"
    )
    assert facts["built before"].startswith("a build of this model took 0.0 s on ")
    assert facts["built before"].endswith(", and 600 bytes on the disk")
    assert facts["cache"] == "8.0 MiB for 4 requests of 1,024 tokens"
    assert facts["memory"].endswith("of 24.00 GiB: fits")


@pytest.fixture
def parts(found):
    """The memory of four requests, by part."""
    return found("plan")["memory"]


def test_a_plan_that_does_not_fit_shows_limits_that_would(run, found, parts):
    two_fewer = f"{parts['total_bytes'] - parts['cache_bytes'] // 2}B"

    facts = table(run("plan", "--gpu-memory", two_fewer, code=5))

    assert facts["memory"].endswith("does not fit")
    assert facts["would fit"].startswith("max_num_seqs=2, or max_model_len=")
    assert facts["would fit"].endswith(", with the others as they are")
    plan = found("plan", "--gpu-memory", two_fewer, code=5)["memory"]
    assert plan["fits"] is False
    assert plan["largest"]["max_num_seqs"] == 2
    found("plan", "--gpu-memory", two_fewer, "--max-num-seqs", 2)


def test_limits_that_fit_only_together_are_shown_together(run, parts):
    room = f"{parts['weight_bytes'] + parts['workspace_bytes'] + 2**20}B"

    facts = table(run("plan", "--gpu-memory", room, code=5))

    assert facts["would fit"].endswith(" together")


def test_a_plan_that_can_never_fit_advises_a_smaller_model(run):
    facts = table(run("plan", "--gpu-memory", "3MiB", code=5))

    assert facts["would fit"].startswith("nothing: take a smaller model")


def test_a_plan_needs_no_engine(run, found, monkeypatch):
    found("build")
    monkeypatch.setattr(scripted_backend, "ENGINE_VERSION", None)

    facts = table(run("plan"))

    assert facts["engine"].startswith("is there: ")
    assert facts["not known here"].startswith("engine_version")


def test_a_backend_that_builds_nothing_has_a_plan_of_memory(cli):
    result = cli("plan", TINY, "--backend", "transformers", "--gpu-memory", "1G")

    facts = table(result)
    assert result.exit_code == 0
    assert facts["engine"].startswith("nothing to build")
    # As many as on a CUDA device, whose memory was given.
    assert facts["cache"] == "128.0 MiB for 64 requests of 1,024 tokens"


def test_limits_that_are_left_open_are_those_that_an_engine_would_fit(cli):
    facts = table(cli("plan", TINY, "--backend", "transformers"))
    small = cli(*("plan", TINY, "--backend", "transformers", "--gpu-memory", "64MiB"))

    assert facts["cache"].endswith("for 8 requests of 1,024 tokens")
    fitted = re.fullmatch(r".* for (\d+) requests .*", table(small)["cache"])
    assert 1 < int(fitted[1]) < 64
    assert small.exit_code == 0


def test_a_backend_whose_plugin_is_missing_has_a_plan_of_memory(cli, monkeypatch):
    monkeypatch.setattr(plugins, "_entry_points", dict)

    result = cli("plan", TINY, "--backend", "vllm", "--gpu-memory", "24GiB")

    facts = table(result)
    assert facts["engine"].startswith("not known: the plugin of this backend")
    assert facts["memory"].endswith("of 24.00 GiB: fits")
    assert cli("plan", TINY, "--backend", "vlm").exit_code == 4


def test_a_plan_as_json_has_every_number(found):
    key = found("build")["key"]

    plan = found("plan", "--max-model-len", 100)

    assert plan["verdict"] == "covered"
    assert plan["used"] == key
    assert plan["differences"] == [{"name": "max_seq_len", "built": 512, "asked": 100}]
    assert plan["past"]["same"] is False
    assert plan["memory"]["total_bytes"] == sum(
        plan["memory"][part]
        for part in (
            "weight_bytes",
            "cache_bytes",
            "activation_bytes",
            "workspace_bytes",
        )
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gb", 24 * 2**30),
        ("24G", 24 * 2**30),
        ("1.5MiB", 3 * 2**19),
        ("1000 bytes", 1000),
        ("80B", 80),
    ],
)
def test_sizes_are_read_as_people_write_them(text, expected):
    assert parse_size(text, option="--x") == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1G", "1.G", "1X", "1 Gi B"])
def test_a_text_that_is_not_a_size_is_refused(text):
    with pytest.raises(ConfigError, match="--x takes a size such as 24GiB"):
        parse_size(text, option="--x")


def test_a_size_without_a_unit_is_refused_with_what_was_meant():
    with pytest.raises(ConfigError, match=r"--x 24 has no unit. Write 24GiB, or 24B"):
        parse_size("24", option="--x")


def test_a_wrong_size_is_a_usage_error(run):
    assert (
        "--gpu-memory takes a size" in run("plan", "--gpu-memory", "x", code=2).stderr
    )


# ------------------------------------------------------------------------------- cache


def test_the_environment_sets_the_path(cli, cache):
    assert cli("cache", "path").stdout == f"{cache}\n"


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_an_impossible_cache_folder_is_a_usage_error(
    cli, monkeypatch, tmp_path, command
):
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("UNILLM_CACHE", str(file))

    result = cli("cache", command)

    assert result.exit_code == 2
    assert f"{file}/artifacts cannot be used" in " ".join(result.stderr.split())


def test_an_empty_cache_has_a_note_instead_of_a_table(cli):
    result = cli("cache", "list")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "No engine has been prepared" in result.stderr


def test_the_list_has_the_purpose_of_each_engine(cli, found):
    key = found("build")["key"]

    shown = cli("cache", "list").stdout.splitlines()[1]
    (entry,) = json.loads(cli("cache", "list", "--json").stdout)

    assert shown.startswith(key[:12])
    for word in ("scripted", TINY, "float32", "max_batch_size=4 max_seq_len=512"):
        assert word in shown
    assert shown.endswith("ready")
    assert entry["key"] == key
    assert entry["state"] == "ready"
    assert entry["spec"]["backend"] == "scripted"


def test_verify_sets_a_damaged_engine_aside(cli, found, cache):
    whole, damaged = found("build"), found("build", "--dtype", "float16")
    file = cache / "entries" / damaged["key"] / "files" / "engine.bin"
    file.chmod(0o644)
    file.write_bytes(b"Engine" * 100)

    result = cli("cache", "verify")

    assert result.exit_code == 1
    assert f"{whole['key'][:12]}  whole" in result.stdout
    assert f"{damaged['key'][:12]}  engine.bin differs from the build" in result.stdout
    assert "1 damaged" in result.stderr
    assert "set aside: engine.bin" in cli("cache", "list").stdout
    assert cli("cache", "verify").exit_code == 0


def test_prune_deletes_the_named_engine_or_all(cli, found):
    first, second = found("build"), found("build", "--dtype", "float16")

    assert cli("cache", "prune").exit_code == 0
    assert len(json.loads(cli("cache", "list", "--json").stdout)) == 2

    cli("cache", "prune", first["key"][:6])
    (left,) = json.loads(cli("cache", "list", "--json").stdout)
    assert left["key"] == second["key"]

    cli("cache", "prune", "--all")
    assert cli("cache", "list", "--json").stdout.strip() == "[]"


def test_prune_by_age_and_size(cli, found, cache):
    key = found("build")["key"]
    old = time.time() - 10 * 86_400
    os.utime(cache / "entries" / key, (old, old))

    dry = cli("cache", "prune", "--unused-for", "9", "--dry-run")
    assert f"{key[:12]}  engine" in dry.stdout
    assert "1 would be deleted" in dry.stderr
    assert json.loads(cli("cache", "prune", "--max-size", "1G", "--json").stdout) == {
        "removed": [],
        "in_use": [],
        "total_bytes": 0,
    }
    cli("cache", "prune", "--unused-for", "9")
    assert cli("cache", "list", "--json").stdout.strip() == "[]"


def test_an_unknown_key_is_a_usage_error(cli, found):
    found("build")

    result = cli("cache", "prune", "zz")

    assert result.exit_code == 2
    assert "No engine has a key that begins with 'zz'" in result.stderr
