# SPDX-License-Identifier: Apache-2.0

"""`RowGenerator`: the state of one actor of Ray Data. Without Ray.

Ray calls it with several batches at once, so the engine's rows stay full while a long
completion holds up the batch that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from unillm import Generator, RequestOutput, SamplingParams
from unillm.errors import EngineError, UnillmError

from ._deaths import end_process
from ._rows import RowRequest, add_results, check_columns, read_row


class RowGenerator:
    """Generates for the rows of batches.

    Args:
        model: Directory, hub id, or the bundled model.
        params: Of rows without any of their own; `None` for the model's defaults.
        options: Arguments of `Generator`.
    """

    def __init__(
        self, model: str, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> None:
        self._generator = Generator(model, **options)
        self._params = params or self._generator.get_default_sampling_params()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows with their results, in their order.

        Raises:
            ConfigError: The dataset lacks a column, or has one too many.
        """
        check_columns(batch.column_names)
        requests = [self._read(row) for row in batch.to_pylist()]
        good = [each for each in requests if isinstance(each, RowRequest)]
        outputs = iter(await self._generate(good))
        return add_results(
            batch,
            [next(outputs) if isinstance(e, RowRequest) else e for e in requests],
        )

    def _read(self, row: Mapping[str, Any]) -> RowRequest | UnillmError:
        try:
            return read_row(row, self._params)
        except UnillmError as error:
            return error

    async def _generate(
        self, requests: list[RowRequest]
    ) -> list[RequestOutput | Exception]:
        outcomes: list[RequestOutput | Exception] = await self._generator.agenerate(
            [each.prompt for each in requests],
            [each.params for each in requests],
            on_error="return",
        )
        for outcome in outcomes:
            if isinstance(outcome, EngineError):
                end_process(outcome)
        return outcomes

    def __del__(self) -> None:
        # Ray drops the object when the actor ends.
        if (generator := getattr(self, "_generator", None)) is not None:
            generator.close()
