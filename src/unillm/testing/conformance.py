# SPDX-License-Identifier: Apache-2.0

"""Run every clause of the contract on an installed backend; results as data.

`unillm conformance` prints the result of `run_contract`. pytest runs the clauses in
this process, without the configuration of the working directory.
"""

from __future__ import annotations

import contextlib
import enum
import io
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from ..distributions import install
from ..errors import ConfigError, PluginError
from ..resolve import resolve

if TYPE_CHECKING:
    import pytest

    from .contract.clauses import Clause

_CONTRACT = Path(__file__).parent / "contract"


class Outcome(enum.Enum):
    """The outcome of a clause."""

    PASSED = "passed"
    FAILED = "failed"
    WAIVED = "waived"
    """It failed, as the backend declares with a reason."""
    NOT_DECLARED = "not declared"
    """It needs a field that the backend refuses."""
    NOT_SHOWN = "not shown"
    """It needs something that is missing here."""


@attrs.frozen(kw_only=True)
class ClauseResult:
    """One clause on one backend."""

    number: str
    statement: str
    outcome: Outcome
    detail: str = ""
    """The reason of a waiver or a skip, or the message of a failure."""
    advice: str = ""
    """Where to look after a failure; empty for other outcomes."""
    file: str = ""
    """File and line of a clause that failed; empty for other outcomes."""


@attrs.frozen(kw_only=True)
class Conformance:
    """All clauses on one backend."""

    backend: str
    distribution: str
    """Name and version of the installed distribution."""
    results: tuple[ClauseResult, ...]

    @property
    def conforms(self) -> bool:
        """Whether no clause failed."""
        return not self.of(Outcome.FAILED)

    def of(self, outcome: Outcome) -> list[ClauseResult]:
        """Return the clauses with this outcome."""
        return [result for result in self.results if result.outcome is outcome]

    def counts(self) -> dict[str, int]:
        """Return the number of clauses by outcome, zeros included."""
        counted = Counter(result.outcome for result in self.results)
        return {outcome.value: counted[outcome] for outcome in Outcome}


def run_contract(
    backend: str,
    *,
    model: str = "unillm/tiny",
    options: Mapping[str, Any] = MappingProxyType({}),
    core: bool = False,
    only: Collection[str] = (),
    on_result: Callable[[ClauseResult], None] | None = None,
) -> Conformance:
    """Run the contract on an installed backend.

    Loads the model some ten times.

    Args:
        backend: Its name.
        model: The bundled model, or the same one in another form.
        options: Options of the `Generator`.
        core: Run only the clauses about the engine itself, on one loaded model.
        only: Run only the clauses of these numbers; empty for all.
        on_result: Called after each clause.

    Raises:
        BackendNotFoundError: The backend is not installed.
        BackendUnavailableError: It cannot run here.
        ConfigError: pytest is not installed, an option is not valid, or `only` names a
            clause that does not exist.
        PluginError: A waiver names no clause or has no reason.
        KeyboardInterrupt: It came while the clauses ran.
    """
    # A backend that cannot run here is refused before pytest starts.
    found = resolve(model, backend, **options)
    need_pytest()
    import pytest

    # pytest imports the contract: only then does a failed comparison show both sides.
    settings = {"backend": backend, "model": model, "options": dict(options)}
    watcher = _Watcher(settings, core=core, only=only, on_result=on_result)
    output = io.StringIO()
    arguments = [
        f"--rootdir={_CONTRACT}",
        f"--config-file={_CONTRACT / 'pytest.ini'}",
        "--noconftest",
        "--import-mode=importlib",
        "-pno:cacheprovider",
        "--tb=short",
        str(_CONTRACT / "adopted.py"),
    ]
    with contextlib.redirect_stdout(output):
        ended = pytest.main(arguments, plugins=[watcher])
    if ended == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if watcher.unknown:
        raise ConfigError(
            f"No clause has the number {', '.join(watcher.unknown)}. The page 'The "
            "contract for plugin authors' lists them: E1, R11 and others."
        )
    if watcher.not_whole:
        raise PluginError(
            f"The waivers of the backend {backend!r} are not valid: {watcher.not_whole}"
        )
    if not watcher.clauses or watcher.clauses.keys() - watcher.results.keys():
        raise RuntimeError(f"pytest did not run every clause:\n{output.getvalue()}")
    return Conformance(
        backend=backend,
        distribution=found.distribution,
        results=watcher.in_order(),
    )


def need_pytest() -> None:
    """Raise `ConfigError` if pytest is not installed."""
    if find_spec("pytest") is None:
        raise ConfigError(
            "The contract needs pytest, which is not installed. Run: "
            f"{install('testing')}"
        )


class _Watcher:
    """A plugin of pytest that sets the settings and records the outcomes."""

    WHOLE = "test_the_contract_is_whole"

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        core: bool,
        only: Collection[str],
        on_result: Callable[[ClauseResult], None] | None,
    ) -> None:
        self._settings = settings
        self._core = core
        self._only = {number.upper() for number in only}
        self.unknown: list[str] = []
        self._on_result = on_result
        self._stdout = sys.stdout
        self.clauses: dict[str, Clause] = {}
        self.results: dict[str, ClauseResult] = {}
        self.not_whole = ""

    def pytest_configure(self, config: pytest.Config) -> None:
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        for item in items:
            for name, value in self._settings.items():
                setattr(item.cls, name, value)
            if clause := getattr(item.function, "clause", None):
                self.clauses[item.name] = clause
        if self._only:
            numbers = {clause.number for clause in self.clauses.values()}
            self.unknown = sorted(self._only - numbers)
        if self._core or self._only:
            core = {
                name: clause
                for name, clause in self.clauses.items()
                if (clause.is_core or not self._core)
                and (clause.number in self._only or not self._only)
                and not self.unknown
            }
            wanted = [self.WHOLE, *sorted(core, key=lambda name: core[name].order)]
            by_name = {item.name: item for item in items}
            items[:] = [by_name[name] for name in wanted]
            self.clauses = core

    def in_order(self) -> tuple[ClauseResult, ...]:
        """Return the results by group and number."""
        names = sorted(self.clauses, key=lambda name: self.clauses[name].order)
        return tuple(self.results[name] for name in names)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        if (judged := _judge(report)) is None:
            return
        outcome, detail = judged
        if name == self.WHOLE and outcome is Outcome.FAILED:
            self.not_whole = detail
        known = self.results.get(name)
        if name not in self.clauses or (known and known.outcome is Outcome.FAILED):
            return  # the failure of a test counts, not that of its teardown
        clause = self.clauses[name]
        failed = outcome is Outcome.FAILED
        self.results[name] = result = ClauseResult(
            number=clause.number,
            statement=clause.statement,
            outcome=outcome,
            detail=detail,
            advice=clause.advice if failed else "",
            file=clause.file if failed else "",
        )
        if self._on_result is not None:
            # pytest captures output down to the file descriptors.
            with (
                self._capture.global_and_fixture_disabled(),
                contextlib.redirect_stdout(self._stdout),
            ):
                self._on_result(result)


def _judge(report: pytest.TestReport) -> tuple[Outcome, str] | None:
    """Return the outcome and the detail of a phase of a test, if it decides."""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        return Outcome.FAILED, str(report.longrepr if crash is None else crash.message)
    # A clause that fails sometimes may pass, and its waiver stands.
    if hasattr(report, "wasxfail") and (report.skipped or report.when == "call"):
        return Outcome.WAIVED, report.wasxfail.removeprefix("reason: ")
    if report.skipped:
        assert isinstance(report.longrepr, tuple)
        reason = report.longrepr[2].removeprefix("Skipped: ")
        declared = "not declared" not in reason
        return Outcome.NOT_SHOWN if declared else Outcome.NOT_DECLARED, reason
    return (Outcome.PASSED, "") if report.when == "call" else None
