# SPDX-License-Identifier: Apache-2.0

"""`run_batch`: answers files of requests. Importing it needs no extra."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    if system is not None and not chat:
        raise ConfigError("system is for chats. Pass chat=True.")
    try:
        from .body import Bodies
        from .folder import JobFolder
        from .job import Job, as_worker
        from .template import Template
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Batch jobs need {error.name}. Install it: pip install 'unillm[batch]'"
        ) from error
    job = Job(
        JobFolder(Path(output)),
        bodies=Bodies(
            fields=dict(params or {}),
            schema=output_schema,
            template=None if prompt_template is None else Template(prompt_template),
            chat=chat,
            system=system,
        ),
        template=prompt_template,
        columns=columns,
    )
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    worker = as_worker(model, **options)
    with job.folder.locked():
        form, scan = job.open_input([os.fspath(each) for each in given])
        record = job.begin(form, scan, worker, restart=restart)
        return job.run(
            form,
            record,
            worker,
            any_order=any_order,
            retry_failed=retry_failed,
            show=use_tqdm,
        )
