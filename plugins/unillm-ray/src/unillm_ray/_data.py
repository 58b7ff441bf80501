# SPDX-License-Identifier: Apache-2.0

"""`generate`: a dataset of prompts to a dataset of texts, on Ray Data."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from ray.data import ActorPoolStrategy, Dataset
from ray.util.annotations import RayDeprecationWarning

from ._actor import RowGenerator
from ._deaths import MAX_RESTARTS
from ._placement import CALLS, Resources, num_seqs_of, placement_of
from ._rows import check_params

if TYPE_CHECKING:
    from unillm import SamplingParams

BATCHES_OF_ROWS = 4
"""Ray runs so many batches of one block at the same time; together they fill the
engine. With `CALLS` small blocks there are twice as many rows."""


def generate(
    dataset: Dataset,
    model: str,
    params: SamplingParams | None = None,
    *,
    backend: str = "auto",
    num_replicas: int | tuple[int, int] = 1,
    resources: Resources | None = None,
    **options: Any,
) -> Dataset:
    """Generate for each row of a dataset, on the actors of a Ray cluster.

    The dataset is computed when it is read or written, in a stream. A row has its
    prompt in one of the columns ``prompt``, ``messages`` and ``prompt_token_ids``, and
    may have fields of `SamplingParams` in ``sampling_params``. All columns are kept.
    Rows come as they finish; ``sort("id")`` orders them by a column of the caller's.

    Args:
        dataset: Rows with prompts.
        model: Directory, hub id, or the bundled ``"unillm/tiny"``; each machine finds
            it under this name.
        params: Of rows without any of their own; `None` for the model's defaults.
        backend: Name of a backend, which each machine has installed.
        num_replicas: Actors, each with an engine; or the least and the most of them.
        resources: Of one actor, by Ray's names, such as ``{"CPU": 2, "GPU": 1}``; one
            CPU by default. A list has one entry for each process of an engine that
            spans machines, and becomes a placement group.
        options: Further arguments of `unillm.Generator`.

    Returns:
        The rows with the columns ``generated_text``, ``generated_tokens``,
        ``num_input_tokens``, ``num_generated_tokens``, ``finish_reason`` and ``error``.
        A row whose request failed has its error and no text.

    Raises:
        InvalidParameterError: *params* ask for results that no column holds.
        ConfigError: *resources* are empty; and, when the dataset is computed,
            a column is missing or has the name of a result.
    """
    if params is not None:
        check_params(params)
    least, most = (
        (num_replicas, num_replicas) if isinstance(num_replicas, int) else num_replicas
    )
    placement = placement_of(resources)
    placed = dict(placement.resources)
    if placement.bundles:
        placed["ray_remote_args_fn"] = placement.strategies(most)
    with warnings.catch_warnings():
        # They are there until 2.64, which the requirements exclude.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map_batches(
            RowGenerator,
            fn_constructor_args=(model, params, {"backend": backend, **options}),
            batch_size=math.ceil(num_seqs_of(options) / BATCHES_OF_ROWS),
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=least, max_size=most, max_concurrent_calls_per_actor=CALLS
            ),
            udf_modifying_row_count=False,
            max_restarts=MAX_RESTARTS,
            **placed,
        )
