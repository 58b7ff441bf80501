# SPDX-License-Identifier: Apache-2.0

"""Write every name of `unillm.backend` into its page, from the sources.

Usage::

    python scripts/draw_plugin_api.py           # write the names
    python scripts/draw_plugin_api.py --check   # fail if the page has others

The page is also the record of the face: a change of a name, of an argument or of a
field shows in it, and `API_VERSION` grows with such a change.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unillm"
PAGE = ROOT / "docs" / "reference" / "plugin-api.md"
BEGIN = "<!-- names: scripts/draw_plugin_api.py writes what follows -->\n"
END = "<!-- end of names -->\n"

GROUPS: Mapping[str, str] = {
    "A plugin": "API_VERSION hookimpl Backend Availability Finding Sometimes phase",
    "Declarations of an engine": """
        Capabilities Capability Support SAMPLED SAMPLING_FIELDS ALWAYS FEATURES ASPECTS
    """,
    "An engine that schedules its requests itself": """
        Engine EngineRequest EngineOutput EngineLimits TokenLogprobs TokenGrammar
        TokenGrammarState WaitingQueue
    """,
    "An engine with rows that are filled one by one": """
        SlotEngine PromptChunk PrefillResult SlotToken Results SlotScheduler
        DEFAULT_MAX_NUM_BATCHED_TOKENS
    """,
    "An engine that only knows generate(batch)": """
        BatchEngine BatchRow BatchTraits PromptWork RowTokens Run RunStep RunScheduler
    """,
    "Logits to tokens": "RequestSampler token_logprobs Sampler Choice",
    "The values of a user's request": """
        EngineConfig ENGINE_OPTIONS SamplingParams StructuredOutputs LoRARequest
        FinishReason SlotMetrics
    """,
    "The files of a checkpoint, read safely": """
        find_model read_json find_config read_config load_config check_code
        check_weights check_tensors quantization_of refuse_pickles without_adapter
        model_positions positions_of load_model read_model_text ModelText
    """,
    "Memory, and limits that fit": """
        memory_needs MemoryNeeds Limits largest_limits plan_limits check_model_len
        free_bytes out_of_memory keep_freed give_back MEMORY_SHARE HEADROOM GIB
    """,
    "Structured outputs in an engine's own compiler": """
        structure_notation StructureNotation
    """,
    "Prepared engines": """
        BuildSpec ArtifactStore ArtifactFolder Artifact Progress run_converter
    """,
}
"""Title to the names below it."""


def text() -> str:
    """Return the names of the face, in groups."""
    modules = dict(origins())
    lines: list[str] = []
    for title, names in GROUPS.items():
        lines += [f"### {title}", ""]
        for name in names.split():
            lines += [*_entry(name, modules.pop(name)), ""]
    assert not modules, f"names without a group: {', '.join(sorted(modules))}"
    return "\n".join(lines)


def origins() -> Iterator[tuple[str, Path]]:
    """Yield each name of the face and the file that defines it."""
    tree = ast.parse((SOURCE / "backend.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            path = SOURCE / node.module.replace(".", "/")
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            for alias in node.names:
                yield alias.name, file


def _entry(name: str, file: Path) -> Iterator[str]:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for index, node in enumerate(body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            yield f"**`{name}`**: {_first(ast.get_docstring(node))}"
            if members := list(_members(node)):
                yield ""
                yield from ("```{code-block} text", *members, "```")
            return
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield f"**`{name}`**: {_first(ast.get_docstring(node))}"
            yield ""
            yield from ("```{code-block} text", _signature(node), "```")
            return
        if name in _assigned(node):
            yield f"**`{name}`**: {_first(_doc_after(body, index))}"
            return
    raise LookupError(f"{file} does not define {name}")


def _members(node: ast.ClassDef) -> Iterator[str]:
    """Yield the fields and methods of a class, each on a line."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            marks = {ast.unparse(mark) for mark in each.decorator_list}
            if each.name == "__init__" or each.name[0] != "_":
                if any("default" in mark.split(".") for mark in marks):
                    continue
                prefix = "property " if marks & {"property", "cached_property"} else ""
                prefix = "abstract " if "abc.abstractmethod" in marks else prefix
                yield prefix + _signature(each)
        elif isinstance(each, (ast.AnnAssign, ast.Assign)):
            for name in _assigned(each):
                if name[0] == "_":
                    continue
                kind = ""
                if isinstance(each, ast.AnnAssign):
                    kind = f": {ast.unparse(each.annotation)}"
                yield f"{name}{kind}"


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [each.id for each in targets if isinstance(each, ast.Name)]


def _doc_after(body: list[ast.stmt], index: int) -> str:
    """Return the docstring below an assignment."""
    following = body[index + 1 : index + 2]
    if following and isinstance(following[0], ast.Expr):
        value = following[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return ""


def _first(docstring: str | None) -> str:
    """Return the first sentence of a docstring, as Markdown."""
    paragraph = " ".join((docstring or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s", paragraph)[0]
    return sentence.replace("``", "`") or "(see the type)"


def main(check: bool) -> int:
    """Write the page, or compare it."""
    old = PAGE.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n{text()}{END}{after}"
    if check and new != old:
        print(f"{PAGE} is not what {Path(__file__).name} writes; run it")
        return 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
