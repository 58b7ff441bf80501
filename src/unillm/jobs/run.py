# SPDX-License-Identifier: Apache-2.0

"""`run_batch`: answers files of requests. Importing it needs no extra."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..distributions import install
from ..errors import ConfigError
from .report import BatchReport

if TYPE_CHECKING:
    from .. import Generator
    from .line import Worker

PathLike = str | os.PathLike[str]


def run_batch(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    model: PathLike | Generator | Worker,
    *,
    params: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    prompt_template: str | None = None,
    chat: bool = False,
    system: str | None = None,
    columns: Sequence[str] | None = None,
    any_order: bool = False,
    deduplicate: bool = False,
    restart: bool = False,
    retry_failed: bool = False,
    use_tqdm: bool = False,
    **options: Any,
) -> BatchReport:
    """Answer every line of files of requests, in a file of the same form.

    The same call goes on where an earlier one was interrupted, by whatever.

    Args:
        inputs: Path, pattern such as ``data/*.jsonl``, or ``-`` for standard input; or
            a list of them. Lines of OpenAI's batch format, or rows with a prompt or
            messages.
        output: File to make. A folder of this name with ``.job`` after it has the
            journal.
        model: Directory, hub id or the bundled ``unillm/tiny``; a `Generator`, which
            stays open; or a `Worker`.
        params: Fields of the body for lines that lack them, such as ``max_tokens``.
        output_schema: JSON schema of the texts of lines that ask for no structure.
        prompt_template: Jinja over the columns of a row, which makes its prompt.
        chat: Send the prompt of a row as a user message.
        system: With *chat*: system message before it.
        columns: Columns of rows to use and to keep; `None` for all.
        any_order: Write lines of JSON in the order in which they end.
        deduplicate: Answer equal lines with temperature 0 once.
        restart: Delete what an earlier job has left for this output.
        retry_failed: Answer the lines again that failed in an earlier call.
        use_tqdm: Show a progress bar.
        options: Of `LocalWorker`, and of `Generator`.

    Raises:
        BatchInputError: The input cannot be read, or two lines have one id.
        BatchMismatchError: The output belongs to another job, or to none.
        BatchRunningError: Another process works at the same job.
        BatchStorageError: The disk is full or failed; what was finished is kept.
        ConfigError: Two options contradict each other.
        EngineError: The engine died; what was finished is kept.
    """
    try:
        from .arguments import Arguments
        from .job import Job, as_worker
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Batch jobs need {error.name}. Install it: {install('batch')}"
        ) from error
    job = Job(
        Arguments(
            inputs=inputs,
            output=output,
            params=params,
            output_schema=output_schema,
            prompt_template=prompt_template,
            chat=chat,
            system=system,
            columns=columns,
            any_order=any_order,
            deduplicate=deduplicate,
            restart=restart,
            retry_failed=retry_failed,
            use_tqdm=use_tqdm,
        )
    )
    worker = as_worker(model, **options)
    with job.folder.locked():
        form, scan = job.open_input(job.folder.path)
        return job.run(form, job.begin(form, scan, worker), worker)
