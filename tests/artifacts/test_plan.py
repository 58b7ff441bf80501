# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import attrs
import pytest

from unillm.artifacts.key import Difference
from unillm.artifacts.plan import MemoryPlan, Outcome, make_plan
from unillm.model.memory import Limits, MemoryNeeds


@pytest.fixture
def built(store, builder):
    """Build an engine and return its key."""

    def build(spec):
        store.obtain(spec, builder).close()
        return spec.key

    return build


def test_an_empty_cache_plans_a_build(store, spec):
    plan = make_plan(spec, store.folder)

    assert plan.outcome is Outcome.BUILD
    assert plan.nearest is None
    assert plan.past is None
    assert not store.folder.root.joinpath("entries").exists()


def test_an_engine_in_the_cache_is_ready(store, spec, built):
    key = built(spec)

    plan = make_plan(spec, store.folder)

    assert plan.outcome is Outcome.READY
    assert plan.used.key == key
    assert plan.differences == ()
    assert plan.past.same


def test_the_tightest_covering_engine_is_planned_with_its_difference(
    store, spec, built
):
    key = built(attrs.evolve(spec, max_seq_len=1024))
    built(attrs.evolve(spec, max_seq_len=4096))

    plan = make_plan(spec, store.folder)

    assert plan.outcome is Outcome.COVERED
    assert plan.used.key == key
    assert plan.differences == (Difference("max_seq_len", 1024, 512),)


def test_a_rebuild_names_the_changed_number_and_the_time_of_the_last_build(
    store, spec, built
):
    built(attrs.evolve(spec, dtype="float16", max_batch_size=1))
    key = built(spec)

    plan = make_plan(attrs.evolve(spec, max_seq_len=1024), store.folder)

    assert plan.outcome is Outcome.BUILD
    assert plan.nearest.key == key
    assert plan.differences == (Difference("max_seq_len", 512, 1024),)
    assert not plan.past.same
    assert plan.past.seconds >= 0
    assert plan.past.total_bytes == plan.nearest.manifest.total_bytes


def test_a_changed_file_of_the_model_is_named(store, spec, built, model):
    built(spec)
    (model / "config.json").write_text('{"hidden_size": 9}')
    changed = attrs.evolve(spec, model_files=store.folder.digest_model(model))

    plan = make_plan(changed, store.folder)

    assert plan.outcome is Outcome.BUILD
    assert [str(each) for each in plan.differences] == ["config.json has other content"]


def test_an_engine_of_another_model_is_not_the_nearest(store, spec, built):
    config = {"config.json": spec.model_files["config.json"]}
    built(attrs.evolve(spec, model="another", model_files=config))

    assert make_plan(spec, store.folder).nearest is None


def test_an_unknown_engine_version_is_not_compared(store, spec, built):
    key = built(spec)

    plan = make_plan(attrs.evolve(spec, engine_version=None, device=None), store.folder)

    assert plan.outcome is Outcome.READY
    assert plan.used.key == key


def test_a_damaged_engine_still_gives_the_time_of_its_build(
    store, spec, built, builder
):
    key = built(spec)
    store.folder.set_aside(key, "a test")

    plan = make_plan(spec, store.folder)

    assert plan.outcome is Outcome.BUILD
    assert plan.past.same


# ------------------------------------------------------------------------------ memory

NEEDS = MemoryNeeds(
    weight_bytes=1000,
    kv_bytes_per_token=1,
    activation_bytes_per_token=1,
    logit_bytes_per_seq=0,
    block_size=1,
)
LIMITS = Limits(max_num_seqs=10, max_model_len=100, max_num_batched_tokens=50)


def memory(available_bytes):
    return MemoryPlan(limits=LIMITS, needs=NEEDS, available_bytes=available_bytes)


def test_an_exact_fit_fits():
    assert memory(2050).fits
    assert memory(2050).largest == attrs.asdict(LIMITS)


def test_each_limit_is_lowered_alone():
    assert not memory(1550).fits
    assert memory(1550).largest == {"max_num_seqs": 5, "max_model_len": 50}


def test_all_limits_are_lowered_together_where_one_alone_is_not_enough():
    plan = memory(1045)

    assert plan.largest == {}
    assert plan.largest_together == Limits(
        max_num_seqs=1, max_model_len=19, max_num_batched_tokens=9
    )
    assert NEEDS.estimate(plan.largest_together).total_bytes <= 1045


def test_a_value_that_the_engine_cannot_have_is_not_advised():
    smallest = Limits(max_num_seqs=1, max_model_len=2, max_num_batched_tokens=45)

    assert memory(2040).largest["max_num_batched_tokens"] == 40
    bound = attrs.evolve(memory(2040), smallest=smallest)
    assert "max_num_batched_tokens" not in bound.largest


def test_no_limits_fit_beside_weights_that_do_not():
    assert memory(999).largest_together is None


def test_an_unknown_memory_leaves_the_fit_open():
    plan = memory(None)

    assert plan.fits is None
    assert plan.largest == {}
    assert plan.largest_together is None


def test_devices_share_weights_and_cache():
    half = NEEDS.sharded(2)

    assert half.weight_bytes == 500
    assert half.kv_bytes_per_token == 1
    assert half.activation_bytes_per_token == 1
