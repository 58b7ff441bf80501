# SPDX-License-Identifier: Apache-2.0

"""``unillm cache``: list, verify and delete prepared engines."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from ..byte_text import size
from ..errors import ConfigError
from . import options
from .commands import command
from .exit_codes import ExitCode
from .reporting import note, say_error
from .sizes import parse_size
from .writing import write_json

if TYPE_CHECKING:
    from ..artifacts.folder import ArtifactFolder, Entry
    from ..artifacts.key import BuildSpec

app = typer.Typer(
    name="cache", help="List, verify and delete prepared engines.", no_args_is_help=True
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
@command
def show_path() -> None:
    """Print the folder of the prepared engines; UNILLM_CACHE moves it."""
    from ..artifacts.folder import ArtifactFolder

    typer.echo(str(ArtifactFolder().root))


@app.command("list")
@command
def show_list(*, as_json: options.AsJson = False) -> None:
    """Show each engine: its purpose, size, build time, last use and state."""
    with _folder() as folder:
        states = list(_states(folder))
        if as_json:
            write_json([_as_json(*each) for each in states])
        elif states:
            _write_table(states)
        else:
            note("No engine has been prepared yet.")


@app.command()
@command
def verify(keys: Keys = None, *, as_json: options.AsJson = False) -> None:
    """Read every byte of the engines and set damaged ones aside."""
    from ..artifacts import upkeep

    with _folder() as folder:
        verified = []
        for entry in upkeep.verify(folder, _found_keys(folder, keys)):
            verified.append(entry)
            if not as_json:
                typer.echo(f"{entry.key[:_SHOWN_KEY]}  {entry.problem or 'whole'}")
        if as_json:
            write_json(verified)
        if damaged := sum(entry.is_damaged for entry in verified):
            say_error(f"{damaged} damaged, set aside and not used any more.")
            raise typer.Exit(ExitCode.REQUESTS_FAILED)


@app.command()
@command
def prune(
    keys: Keys = None,
    *,
    unused_for: Annotated[
        float | None,
        typer.Option(metavar="DAYS", help="Delete engines unused for so many days."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Delete the longest unused engines until the others take no more.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Delete all engines.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be deleted.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Delete engines, damaged ones and the rest of killed builds; not those in use.

    Without a key or an option, only damaged engines and killed builds are deleted.
    """
    from ..artifacts import upkeep

    with _folder() as folder:
        policy = upkeep.PrunePolicy(
            keys=_found_keys(folder, keys),
            unused_for_s=None if unused_for is None else unused_for * _DAY_S,
            max_bytes=parse_size(max_size, option="--max-size"),
            everything=everything,
        )
        report = upkeep.prune(folder, policy, dry_run=dry_run)
    if as_json:
        write_json({**attrs.asdict(report), "total_bytes": report.total_bytes})
        return
    for removal in report.removed:
        key = removal.key[:_SHOWN_KEY]
        typer.echo(f"{key}  {removal.what}, {size(removal.total_bytes)}")
    for key in report.in_use:
        note(f"{key[:_SHOWN_KEY]} is in use and stays.")
    would = "would be deleted" if dry_run else "deleted"
    note(f"{len(report.removed)} {would}, {size(report.total_bytes)}.")


@contextlib.contextmanager
def _folder() -> Iterator[ArtifactFolder]:
    """Open the folder of the prepared engines.

    Raises:
        ConfigError: The folder cannot be read, or cannot be written where a command
            writes.
    """
    from ..artifacts.folder import CACHE_VARIABLE, ArtifactFolder

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
    """Return the one key that begins with each given text.

    Raises:
        ConfigError: No key begins with a text, or several do.
    """
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


def _states(folder: ArtifactFolder) -> Iterator[tuple[Entry, str]]:
    """Yield every engine with its state."""
    from ..artifacts.upkeep import is_in_use

    for entry in folder.entries():
        state = "in use" if is_in_use(folder, entry.key) else "ready"
        yield entry, f"not used: {entry.problem}" if entry.problem else state
    for entry in folder.set_aside_entries():
        yield entry, f"set aside: {entry.problem}"


def _last_use(entry: Entry) -> dt.datetime:
    from ..artifacts.upkeep import last_use

    return dt.datetime.fromtimestamp(last_use(entry)).astimezone()


def _as_json(entry: Entry, state: str) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "key": entry.key,
        "path": entry.path,
        "state": state,
        "total_bytes": entry.total_bytes(),
        "last_use": _last_use(entry),
        "built_at": manifest and manifest.built_at,
        "build_seconds": manifest and manifest.build_seconds,
        "spec": manifest and manifest.spec,
    }


def _write_table(states: list[tuple[Entry, str]]) -> None:
    from rich.text import Text

    from ..artifacts.progress import duration
    from .tables import column_table, print_table

    table = column_table(
        "key", "backend", "model", "for", "size", "took", "used", "state"
    )
    for entry, state in states:
        manifest = entry.manifest
        spec = manifest and manifest.spec
        table.add_row(
            entry.key[:_SHOWN_KEY],
            spec.backend if spec else "–",
            Text(spec.model) if spec else "–",
            _purpose(spec) if spec else "–",
            size(entry.total_bytes()),
            duration(manifest.build_seconds) if manifest else "–",
            f"{_last_use(entry):%Y-%m-%d %H:%M}",
            Text(state),
        )
    print_table(table)


def _purpose(spec: BuildSpec) -> str:
    limits = [f"{name}={value}" for name, value in spec.limits.items() if value]
    return " ".join(filter(None, (spec.dtype, spec.quantization, *limits)))
