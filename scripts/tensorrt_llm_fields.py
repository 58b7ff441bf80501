# SPDX-License-Identifier: Apache-2.0

"""Write the table of sampling fields by version of TensorRT-LLM into its page.

Usage::

    python scripts/tensorrt_llm_fields.py           # write the table
    python scripts/tensorrt_llm_fields.py --check   # fail if the page has another one

The plugin decides for each version of the fake TensorRT-LLM, as it decides for an
installed one: by the modules, classes and fields that it finds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / "unillm-tensorrt-llm"
PAGE = "docs/reference/tensorrt-llm.md"
BEGIN = "<!-- fields: scripts/tensorrt_llm_fields.py writes what follows -->\n"
END = "<!-- end of fields -->\n"

sys.path[:0] = [str(PLUGIN / "src"), str(PLUGIN / "tests" / "double")]

from trtllm_double.profiles import PROFILES  # noqa: E402
from unillm_tensorrt_llm import _capabilities, _pytorch, _runner  # noqa: E402
from unillm_tensorrt_llm._capabilities import PytorchOptions  # noqa: E402
from unillm_tensorrt_llm._entry_paths import EntryPath, Installed  # noqa: E402
from unillm_tensorrt_llm._sampler import Sampler, choose_sampler  # noqa: E402

from unillm.backend import ASPECTS, SAMPLING_FIELDS, Capabilities, Support  # noqa: E402

ROWS = sorted([*SAMPLING_FIELDS, *ASPECTS, "lora"])
TITLES = (
    (EntryPath.PYTORCH, False, "On PyTorch, with the sampler that the plugin chooses"),
    (EntryPath.PYTORCH, True, "On PyTorch, with TorchSampler"),
    (EntryPath.ENGINE, False, "Engines through `LLM`"),
    (EntryPath.RUNNER, False, "Runners"),
)
"""Entry path, whether TorchSampler is chosen by an option, and title."""

Cell = tuple[str, str]
"""A mark, and the reason behind it."""


def install(name: str) -> Installed:
    """Make one version of the fake importable, and look at it."""
    os.environ["TRTLLM_DOUBLE_PROFILE"] = name
    for module in [m for m in sys.modules if m.partition(".")[0] == "tensorrt_llm"]:
        del sys.modules[module]
    return Installed.look()


def capabilities(
    installed: Installed, path: EntryPath, *, by_torch: bool
) -> tuple[Capabilities, Capabilities]:
    """Return those of the default options, and of those that enable the most."""
    if path is EntryPath.RUNNER:
        found = _capabilities.on_runners(
            takes_seeds=_runner.takes_seeds(installed.model_runner_cpp)
        )
        return found, found
    if path is EntryPath.ENGINE:
        found = _capabilities.on_engines(installed, speculates=False)
        return found, found
    sampler = Sampler.TORCH if by_torch else choose_sampler(installed, {}).sampler
    default = PytorchOptions(sampler=sampler, lora=_pytorch.Lora.look() is not None)
    guided = _pytorch.has_llguidance(installed)
    most = attrs.evolve(default, block_reuse=False, guided=guided)
    return (
        _capabilities.on_pytorch(installed, default),
        _capabilities.on_pytorch(installed, most),
    )


def cell(field: str, by_default: Capabilities, most: Capabilities) -> Cell:
    """Return how a field is honoured."""
    found = by_default.of(field)
    if found.support is not Support.UNSUPPORTED:
        return found.support.value, found.reason
    if most.of(field).support is not Support.UNSUPPORTED:
        return "option", found.reason
    return "refused", most.of(field).reason


def columns(
    path: EntryPath, *, by_torch: bool
) -> Iterator[tuple[list[str], list[Cell]]]:
    """Yield the versions of each column, and its cells in the order of `ROWS`."""
    names: list[str] = []
    last: list[Cell] = []
    for name in PROFILES:
        installed = install(name)
        if not installed.has(path):
            continue
        found = capabilities(installed, path, by_torch=by_torch)
        cells = [cell(field, *found) for field in ROWS]
        if names and cells != last:
            yield names, last
            names = []
        names, last = [*names, name], cells
    yield names, last


def tables() -> Iterator[str]:
    """Yield the lines of all tables, and of the reasons below them."""
    reasons: dict[str, int] = {}
    for path, by_torch, title in TITLES:
        found = list(columns(path, by_torch=by_torch))
        heads = [
            names[0] if len(names) == 1 else f"{names[0]} – {names[-1]}"
            for names, _ in found
        ]
        yield f"**{title}**"
        yield ""
        yield f"| field | {' | '.join(heads)} |"
        yield f"|---{'|---' * len(heads)}|"
        for index, field in enumerate(ROWS):
            # An aspect without a row has that of its field.
            whole = field.rpartition(".")[0]
            if whole and all(c[index] == c[ROWS.index(whole)] for _, c in found):
                continue
            marks = [_mark(cells[index], reasons) for _, cells in found]
            yield f"| `{field}` | {' | '.join(marks)} |"
        yield ""
    yield from (f"{number}. {reason}." for reason, number in reasons.items())


def _mark(cell: Cell, reasons: dict[str, int]) -> str:
    mark, reason = cell
    if not reason:
        return mark
    return f"{mark} ({reasons.setdefault(reason, len(reasons) + 1)})"


def main() -> int:
    """Write the page, or check it; return the exit status."""
    path = ROOT / PAGE
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE} lacks the line {BEGIN if not begin else END}")
    text = f"{before}{begin}\n" + "\n".join(tables()) + f"\n\n{end}{after}"
    if text == page:
        return 0
    if "--check" in sys.argv:
        print(f"stale: {PAGE}. Run: python scripts/tensorrt_llm_fields.py")
        return 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
