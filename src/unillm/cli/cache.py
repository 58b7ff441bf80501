# SPDX-License-Identifier: Apache-2.0

"""``unillm cache``: the prepared engines that are kept, checked and deleted."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from . import options
from .exit_codes import ExitCode
from .reporting import note, reported, say_error
from .sizes import parse_size, size
from .writing import write_json

if TYPE_CHECKING:
    from ..artifacts.folder import ArtifactFolder, Entry
    from ..artifacts.key import BuildSpec
    from ..artifacts.upkeep import PruneReport

app = typer.Typer(
    name="cache",
    help="Show, verify and delete the engines that were prepared.",
    no_args_is_help=True,
)

_SHOWN_KEY = 12
_DAY_S = 86_400

Keys = Annotated[
    list[str] | None,
    typer.Argument(
        help="Beginnings of keys, as `unillm cache list` shows them.",
        show_default=False,
    ),
]


@app.command("path")
def show_path(context: typer.Context, *, debug: options.Debug = False) -> None:
    """Print the folder of the prepared engines; UNILLM_CACHE moves it."""
    with reported(context, debug=debug):
        from ..artifacts.folder import ArtifactFolder

        typer.echo(str(ArtifactFolder().root))


@app.command("list")
def show_list(
    context: typer.Context,
    *,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show every engine: what for, how large, how long it took, when it was used."""
    with reported(context, debug=debug), _folder() as folder:
        kept = list(_kept(folder))
        if as_json:
            write_json([_as_json(each) for each in kept])
        elif kept:
            _write_table(kept)
        else:
            note("No engine has been prepared yet.")


@app.command()
def verify(
    context: typer.Context,
    keys: Keys = None,
    *,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Read every byte of the engines; a damaged one is set aside."""
    with reported(context, debug=debug), _folder() as folder:
        from ..artifacts import upkeep

        verdicts = []
        for verdict in upkeep.verify(folder, _found_keys(folder, keys)):
            verdicts.append(verdict)
            if not as_json:
                typer.echo(f"{verdict.key[:_SHOWN_KEY]}  {verdict.problem or 'whole'}")
        if as_json:
            write_json([attrs.asdict(verdict) for verdict in verdicts])
        if damaged := sum(verdict.is_damaged for verdict in verdicts):
            say_error(f"{damaged} damaged, set aside and not used any more.")
            raise typer.Exit(ExitCode.REQUESTS_FAILED)


@app.command()
def prune(
    context: typer.Context,
    keys: Keys = None,
    *,
    unused_for: Annotated[
        float | None,
        typer.Option(
            "--unused-for", metavar="DAYS", help="Those that were not used for so long."
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Those that were unused for longest, until the rest takes no more.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be deleted.")
    ] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Delete engines, what was set aside and what killed builds left; not those in use.

    Without a key or an option, only what nobody can use is deleted.
    """
    with reported(context, debug=debug), _folder() as folder:
        from ..artifacts import upkeep

        policy = upkeep.PrunePolicy(
            keys=_found_keys(folder, keys),
            unused_for_s=None if unused_for is None else unused_for * _DAY_S,
            max_bytes=None
            if max_size is None
            else parse_size(max_size, option="--max-size"),
            everything=everything,
        )
        report = upkeep.prune(folder, policy, dry_run=dry_run)
        if as_json:
            write_json({**attrs.asdict(report), "total_bytes": report.total_bytes})
        else:
            _write_report(report, dry_run=dry_run)


@contextlib.contextmanager
def _folder() -> Iterator[ArtifactFolder]:
    """Open the folder of the prepared engines.

    Raises:
        ConfigError: It cannot be read, or not be written where that is needed.
    """
    from ..artifacts.folder import CACHE_VARIABLE, ArtifactFolder
    from ..errors import ConfigError

    folder = ArtifactFolder()
    try:
        yield folder
    except BrokenPipeError:  # of the output
        raise
    except OSError as error:
        raise ConfigError(
            f"The folder of prepared engines {folder.root} cannot be used for this: "
            f"{error}. {CACHE_VARIABLE} says where it is."
        ) from error


def _found_keys(folder: ArtifactFolder, given: Iterable[str] | None) -> list[str]:
    """Return the keys that begin as was given.

    Raises:
        ConfigError: None does, or several do.
    """
    from ..errors import ConfigError

    known = [entry.key for entry in folder.entries()]
    keys = []
    for start in given or ():
        fitting = [key for key in known if key.startswith(start)]
        if len(fitting) != 1:
            count = "No engine has" if not fitting else f"{len(fitting)} engines have"
            raise ConfigError(
                f"{count} a key that begins with {start!r}. `unillm cache list` shows "
                "them."
            )
        keys += fitting
    return keys


# ---------------------------------------------------------------------------- the list


@attrs.frozen(kw_only=True)
class _Kept:
    """One line of the list."""

    entry: Entry
    state: str
    last_use: float


def _kept(folder: ArtifactFolder) -> Iterator[_Kept]:
    from ..artifacts.upkeep import is_in_use, last_use

    for entry in folder.entries():
        state = "in use" if is_in_use(folder, entry.key) else "ready"
        if entry.problem:
            state = f"not used: {entry.problem}"
        yield _Kept(entry=entry, state=state, last_use=last_use(entry))
    for entry in folder.set_aside_entries():
        state = f"set aside: {entry.problem}"
        yield _Kept(entry=entry, state=state, last_use=last_use(entry))


def _as_json(kept: _Kept) -> dict[str, Any]:
    from ..artifacts.records import to_json

    manifest = kept.entry.manifest
    return {
        "key": kept.entry.key,
        "path": str(kept.entry.path),
        "state": kept.state,
        "total_bytes": kept.entry.total_bytes(),
        "last_use": _time(kept.last_use).isoformat(),
        "built_at": manifest and manifest.built_at.isoformat(),
        "build_seconds": manifest and manifest.build_seconds,
        "spec": manifest and to_json(manifest.spec),
    }


def _write_table(kept: list[_Kept]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..artifacts.progress import duration
    from .tables import print_table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("key", "backend", "model", "for", "size", "took", "used", "state"):
        table.add_column(title, overflow="fold")
    for each in kept:
        manifest = each.entry.manifest
        spec = manifest and manifest.spec
        table.add_row(
            each.entry.key[:_SHOWN_KEY],
            spec.backend if spec else "–",
            Text(spec.model) if spec else "–",
            _purpose(spec) if spec else "–",
            size(each.entry.total_bytes()),
            duration(manifest.build_seconds) if manifest else "–",
            f"{_time(each.last_use):%Y-%m-%d %H:%M}",
            Text(each.state),
        )
    print_table(table)


def _purpose(spec: BuildSpec) -> str:
    limits = [f"{name}={value}" for name, value in spec.limits.items() if value]
    return " ".join(filter(None, (spec.dtype, spec.quantization, *limits)))


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds).astimezone()


def _write_report(report: PruneReport, *, dry_run: bool) -> None:
    for removal in report.removed:
        key = removal.key[:_SHOWN_KEY]
        typer.echo(f"{key}  {removal.what}, {size(removal.total_bytes)}")
    for key in report.in_use:
        note(f"{key[:_SHOWN_KEY]} is in use and stays.")
    would = "would be deleted" if dry_run else "deleted"
    note(f"{len(report.removed)} {would}, {size(report.total_bytes)}.")
