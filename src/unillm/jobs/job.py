# SPDX-License-Identifier: Apache-2.0

"""`Job`: a job from its files to its output."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..artifacts.digests import digest_file
from ..errors import BatchInputError, ConfigError
from .arguments import Arguments
from .equal import Followers
from .files import STDIN, copy_input, find_files, suffix_of
from .folder import STDIN_COPY, JobFolder, JobRecord
from .forms import Form, Naming, Scan
from .journal import INDEX, LINES, Journal, drop_failed, storage_error, storage_errors
from .json_lines import BatchLines, JsonRows, is_batch
from .line import Worker
from .output import finish, write_output
from .progress import Progress
from .report import BatchReport
from .runner import Runner
from .tables import CsvRows, ParquetRows
from .worker import LocalWorker

log = logging.getLogger("unillm.jobs")


def as_worker(model: Any, **options: Any) -> Worker:
    """Return a worker: the given one, or one around a model or a `Generator`."""
    if not hasattr(model, "submit") or hasattr(model, "generate"):
        return LocalWorker(model, **options)
    if options:
        raise ConfigError(f"A worker takes no options, got {', '.join(options)}.")
    worker: Worker = model
    return worker


class Job:
    """One job on its folder, which the caller has locked.

    Args:
        arguments: Those of `run_batch`.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.folder = JobFolder(arguments.path)
        self._arguments = arguments
        self._bodies = arguments.bodies()

    def open_input(self, work: Path) -> tuple[Form, Scan]:
        """Find the input, copy standard input, and read it once.

        Args:
            work: Folder for the copy and for temporary files.

        Raises:
            BatchInputError: It cannot be read, is empty, or two lines have one id.
            ConfigError: The output has another form.
        """
        output, patterns = self.folder.output, self._arguments.patterns
        if STDIN in patterns:
            if len(patterns) > 1:
                raise ConfigError("- is standard input and stands alone.")
            copy = work / STDIN_COPY
            try:
                copy_input(sys.stdin.buffer, copy)
            except OSError as error:
                raise storage_error(copy, error) from error
            paths = [copy]
        else:
            paths = find_files(patterns)
        for made in (output, self.folder.failed_lines):
            if any(made.exists() and path.samefile(made) for path in paths):
                raise ConfigError(
                    f"{made} is the input, and this job would replace it. Give "
                    "another output."
                )
        form = self._form(paths)
        if suffix_of(output) not in form.suffixes:
            raise ConfigError(
                f"The output has the form of the input, {form.name}, so its name ends "
                f"with {form.suffixes[0]}, got {output.name!r}."
            )
        with storage_errors(work):
            scan = form.scan(work)
        if not scan.num_lines:
            raise BatchInputError("The input has no lines. A job needs one at least.")
        if scan.num_bad:
            log.warning(
                "%d lines are not requests and will fail:\n  %s",
                scan.num_bad,
                "\n  ".join(scan.first_bad),
            )
        return form, scan

    def _form(self, paths: Sequence[Path]) -> Form:
        found = {suffix_of(path) for path in paths}
        kind: type[Form]
        if found <= set(CsvRows.suffixes):
            kind = CsvRows
        elif found <= set(ParquetRows.suffixes):
            kind = ParquetRows
        elif found & {*CsvRows.suffixes, *ParquetRows.suffixes}:
            raise BatchInputError(
                f"The files of a job have one form, got {', '.join(sorted(found))}."
            )
        else:
            kind = BatchLines if is_batch(paths) else JsonRows
        return kind(paths, self._bodies, self._arguments.columns)

    def begin(self, form: Form, scan: Scan, worker: Worker) -> JobRecord:
        """Return the record of the job, new or as it was interrupted.

        Raises:
            BatchMismatchError: The output belongs to another job, or to none.
            BatchStorageError: The disk is full or failed, or the record is damaged.
        """
        given = self._arguments
        depends = {
            "input": [digest_file(path) for path in form.paths],
            "form": form.name,
            "fields": self._bodies.fields,
            "output schema": self._bodies.schema,
            "prompt template": given.prompt_template,
            "chat": self._bodies.chat,
            "system": self._bodies.system,
            "columns": given.columns,
            **worker.identity,
        }
        return self.folder.begin(depends, scan.num_lines, restart=given.restart)

    def run(self, form: Form, record: JobRecord, worker: Worker) -> BatchReport:
        """Finish the job.

        Raises:
            BatchInputError: A file cannot be read.
            BatchStorageError: The disk is full or failed; what was finished is kept.
            EngineError: The engine died; what was finished is kept.
        """
        path, given = self.folder.path, self._arguments
        has_output = not record.finished and self.folder.has_output(record)
        self.folder.clear(keep_record=True, keep=(LINES, INDEX, STDIN_COPY))
        if has_output:  # the process ended right after that
            record = finish(self.folder, record)
        if record.finished:
            if not (given.retry_failed and record.num_failed):
                return self._report(record, num_resumed=record.num_lines)
            record = JobRecord(
                depends=record.depends,
                created=record.created,
                num_lines=record.num_lines,
            )
            self.folder.write(record)
        if given.retry_failed and (path / LINES).exists():
            drop_failed(path)
        journal = Journal(path, record.num_lines)
        resumed = journal.done.count
        progress = Progress(
            total=record.num_lines,
            resumed=resumed,
            show=given.use_tqdm,
            stats=worker.stats,
        )
        copied = 0
        try:
            copied = self._answer(form, record, journal, worker, progress)
        finally:
            progress.close()
        record = write_output(
            self.folder, form, record, journal.failed, any_order=given.any_order
        )
        return self._report(
            record,
            num_resumed=resumed,
            num_copied=copied,
            num_prompt_tokens=progress.num_prompt_tokens,
            num_generated_tokens=progress.num_new_tokens,
            seconds=progress.seconds,
        )

    def _answer(
        self,
        form: Form,
        record: JobRecord,
        journal: Journal,
        worker: Worker,
        progress: Progress,
    ) -> int:
        """Answer the lines that are left; whatever ends it, the journal is synced.

        Returns:
            The number of lines that got the answer of an equal one.
        """
        naming = Naming(key=record.key, created=record.created)
        with contextlib.ExitStack() as stack:
            stack.callback(journal.close)
            stack.callback(worker.close)
            if journal.done.count == record.num_lines:
                return 0
            left = (each for each in form.records() if each.index not in journal.done)
            runner = Runner(form, naming, journal, worker, progress)
            if not self._arguments.deduplicate:
                worker.open()
                progress.begin()
                runner.run(left)
                return 0
            path = self.folder.path
            with storage_errors(path):
                followers = Followers(form, naming, path, record.num_lines)
            stack.callback(followers.close)
            worker.open()
            progress.begin()
            runner.run(each for each in left if each.index not in followers.lines)
            with storage_errors(path):
                return followers.write(journal, progress)

    def _report(self, record: JobRecord, **counts: Any) -> BatchReport:
        output = self.folder.output
        return BatchReport(
            output=output,
            num_lines=record.num_lines,
            num_failed=record.num_failed,
            failed=self.folder.failed_lines if record.num_failed else None,
            **counts,
        )
