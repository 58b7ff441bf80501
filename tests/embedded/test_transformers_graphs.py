# SPDX-License-Identifier: Apache-2.0

"""What graphs are fed and asked, on any device: instead of a graph, the step itself."""

from __future__ import annotations

import pytest
from embedded.test_transformers_greedy import PoisonedEngine, assert_same_tokens
from embedded.tiny_models import VARIANTS, make_model, serve

from unillm.embedded.transformers.fusing import fuse_projections
from unillm.embedded.transformers.graphs import GraphRunner, row_counts, seen_counts


class PaddedEngine(PoisonedEngine):
    """Computes the shapes that graphs are recorded for; fused; free rows are NaN."""

    def __init__(self, model, **options) -> None:
        fuse_projections(model)
        super().__init__(model, **options)
        self._runner = GraphRunner(
            self._model, self._cache, self._masks, record=lambda step: step
        )


@pytest.mark.parametrize(
    ("num_slots", "budget"), [(5, 2048), (11, 90)], ids=["whole", "in chunks"]
)
@pytest.mark.parametrize("family", VARIANTS)
def test_padded_shapes_give_the_tokens_of_generate(
    reference, family, num_slots, budget
):
    known = reference.known(family, 24)
    engine = PaddedEngine(make_model(family), num_slots=num_slots, max_model_len=224)

    got = serve(
        engine,
        [each.request for each in known],
        seed=num_slots,
        max_num_batched_tokens=budget,
    )

    assert_same_tokens(reference.model(family), known, got)


def test_shapes_are_few_and_reach_the_end():
    assert row_counts(1) == [1]
    assert row_counts(5) == [1, 2, 4, 5]
    assert row_counts(20) == [1, 2, 4, 8, 16, 20]
    assert seen_counts(192) == [192]
    assert seen_counts(1088) == [256, 512, 1024, 1088]
