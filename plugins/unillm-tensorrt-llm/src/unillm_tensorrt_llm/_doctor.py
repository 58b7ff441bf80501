# SPDX-License-Identifier: Apache-2.0

"""What this plugin assumes of TensorRT-LLM, asked of the real one.

A finding that did not hold is a fault of this plugin's picture; one that no source
answers is a new fact. Both are worth a report.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from unillm.backend import EngineRequest, Finding, SamplingParams, read_model_text

from . import _sampling
from ._doors import Installed, choose
from ._llm import LlmEngine
from ._opening import open_door
from ._runner_doctor import of_the_runner

if TYPE_CHECKING:
    from unillm.backend import EngineConfig

PROMPT = "Count from 3 to 9:"

_SOME_ID = 65
"""One that no model says four times by itself."""

_FIELDS = (
    "end_id",
    "stop_token_ids",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "ignore_eos",
    "include_stop_str_in_output",
    "detokenize",
)


def examine(config: EngineConfig) -> Iterator[Finding]:
    """Yield a finding for each assumption, as soon as it is known."""
    installed = Installed.look()
    choice = choose(installed, config.path, config.backend_options.get("door"))
    yield Finding(
        assumption=f"the door is {choice.door.value!r}",
        source="_doors.py",
        held=True,
        detail=f"TensorRT-LLM {installed.version}: {choice.reason}",
    )
    text = read_model_text(
        config.path, config.tokenizer, trust_remote_code=config.trust_remote_code
    )
    prompt = tuple(text.tokenizer.encode(PROMPT, add_special_tokens=True))
    with contextlib.closing(open_door(config)) as engine:
        if isinstance(engine, LlmEngine):
            yield from _of_the_llm_api(_Asker(engine, installed, prompt, text.eos.ids))
        else:
            yield from of_the_runner(engine, prompt)


class _Asker:
    """Asks the raw ``LLM`` as the engine does."""

    def __init__(
        self,
        engine: LlmEngine,
        installed: Installed,
        prompt: Sequence[int],
        end_ids: frozenset[int],
    ) -> None:
        self._engine = engine
        self.params_class = installed.sampling_params
        self.prompt = prompt
        self.end_ids = end_ids

    def ask(self, *, max_tokens: int = 32, change: Any = None, **fields: Any) -> Any:
        """Return the finished result of one request."""
        result = self.begin(
            max_tokens=max_tokens, change=change, streaming=False, **fields
        )
        return result.result()

    def begin(
        self,
        *,
        max_tokens: int,
        streaming: bool,
        change: Callable[[Any], None] | None = None,
        prompt: Sequence[int] | None = None,
        **fields: Any,
    ) -> Any:
        """Start one request; *fields* are those of unillm's `SamplingParams`."""
        prompt = tuple(self.prompt if prompt is None else prompt)
        params = SamplingParams(**{"temperature": 0, **fields})
        ends = frozenset[int]() if params.ignore_eos else self.end_ids
        request = EngineRequest(
            request_id="doctor",
            prompt_token_ids=prompt,
            params=params,
            stop_token_ids=ends | frozenset(params.stop_token_ids),
            max_new_tokens=max_tokens,
            seed=0 if params.seed is None else params.seed,
        )
        theirs = _sampling.llm_params(
            request, self.params_class, vocab_size=self._engine.limits.vocab_size
        )
        if change is not None:
            change(theirs)
        return self._engine.llm.generate_async(
            list(prompt), theirs, streaming=streaming
        )


def _of_the_llm_api(asker: _Asker) -> Iterator[Finding]:
    for check in (
        _has_fields,
        _leaves_out_the_prompt,
        _one_object_grows,
        _top_k_of_one_is_greedy,
        _adds_its_bias,
        _seeds_repeat,
        _ends_at_every_stop_id,
        _runs_on_under_ignore_eos,
        _aborts,
        _shows_the_end_id,
        _holds_stop_ids_back,
    ):
        yield _checked(check, asker)


def _checked(check: Callable[[_Asker], Finding], asker: _Asker) -> Finding:
    try:
        return check(asker)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
        detail = f"{type(error).__name__}: {error}"
        return _finding(check, "tensorrt_llm.llmapi", held=False, detail=detail)


def _finding(
    check: Callable[[_Asker], Finding], source: str, *, held: bool | None, detail: str
) -> Finding:
    return Finding(
        assumption=(check.__doc__ or "").rstrip("."),
        source=source,
        held=held,
        detail=detail,
    )


def _has_fields(asker: _Asker) -> Finding:
    """SamplingParams has every field that requests are said with."""
    known = inspect.signature(asker.params_class).parameters
    missing = [name for name in _FIELDS if name not in known]
    return _finding(
        _has_fields,
        "sampling_params.py",
        held=not missing,
        detail=f"missing: {', '.join(missing)}" if missing else "all are there",
    )


def _leaves_out_the_prompt(asker: _Asker) -> Finding:
    """Results hold the new tokens alone."""
    ids = list(asker.ask(max_tokens=4, ignore_eos=True).outputs[0].token_ids)
    return _finding(
        _leaves_out_the_prompt,
        "release notes 0.10",
        held=len(ids) == 4,
        detail=f"{len(asker.prompt)} tokens in, 4 asked, {len(ids)} came: {ids}",
    )


def _one_object_grows(asker: _Asker) -> Finding:
    """Iterating yields the same object, its ids cumulative."""
    stream = asker.begin(max_tokens=4, streaming=True, ignore_eos=True)
    lengths, objects = [], set()
    for each in stream:
        objects.add(id(each))
        lengths.append(len(each.outputs[0].token_ids))
    return _finding(
        _one_object_grows,
        "executor/result.py",
        held=len(objects) == 1 and lengths == sorted(lengths),
        detail=f"{len(objects)} object(s), lengths {lengths}",
    )


def _top_k_of_one_is_greedy(asker: _Asker) -> Finding:
    """A top_k of 1 is greedy, whatever the seed."""
    first = list(asker.ask(seed=1, ignore_eos=True).outputs[0].token_ids)
    second = list(asker.ask(seed=2, ignore_eos=True).outputs[0].token_ids)
    return _finding(
        _top_k_of_one_is_greedy,
        "sampling_params.py",
        held=first == second,
        detail=f"{first[:8]}… and {second[:8]}…",
    )


def _adds_its_bias(asker: _Asker) -> Finding:
    """An embedding_bias is added to the logits, and can force and ban ids."""
    source = "sampling_params.py"
    if "embedding_bias" not in inspect.signature(asker.params_class).parameters:
        detail = "this version has no embedding_bias"
        return _finding(_adds_its_bias, source, held=None, detail=detail)
    asked: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True}
    forced = asker.ask(**asked, logit_bias={_SOME_ID: 100.0}).outputs[0]
    allowed = asker.ask(**asked, allowed_token_ids=[_SOME_ID]).outputs[0]
    seen = [list(forced.token_ids), list(allowed.token_ids)]
    return _finding(
        _adds_its_bias,
        source,
        held=seen == [[_SOME_ID] * 4] * 2,
        detail=f"{_SOME_ID} was asked for: {seen}",
    )


def _seeds_repeat(asker: _Asker) -> Finding:
    """A seed repeats its tokens, and another one gives others."""

    def sample(seed: int) -> list[int]:
        # A single token leaves open what follows.
        result = asker.ask(
            prompt=asker.prompt[-1:], seed=seed, temperature=2.0, ignore_eos=True
        )
        return list(result.outputs[0].token_ids)

    repeats, differs = sample(1) == sample(1), sample(1) != sample(2)
    return _finding(
        _seeds_repeat,
        "issues #2411 and #1000",
        held=repeats and differs,
        detail=f"repeats: {repeats}; differs: {differs}",
    )


def _ends_at_every_stop_id(asker: _Asker) -> Finding:
    """A stop id ends a request, and stop_reason names it."""
    ids = list(asker.ask(max_tokens=8, ignore_eos=True).outputs[0].token_ids)
    fourth = ids[3]
    completion = asker.ask(max_tokens=8, stop_token_ids=[fourth]).outputs[0]
    own = completion.stop_reason in (None, fourth)
    return _finding(
        _ends_at_every_stop_id,
        "executor/result.py",
        held=completion.finish_reason == "stop" and own,
        detail=f"{completion.finish_reason}, {completion.stop_reason}, "
        f"{list(completion.token_ids)} for stop id {fourth}",
    )


def _runs_on_under_ignore_eos(asker: _Asker) -> Finding:
    """A request without any end id runs to its length."""
    completion = asker.ask(max_tokens=64, ignore_eos=True).outputs[0]
    return _finding(
        _runs_on_under_ignore_eos,
        "executor/base_worker.py",
        held=len(completion.token_ids) == 64,
        detail=f"{len(completion.token_ids)} of 64, {completion.finish_reason}",
    )


def _aborts(asker: _Asker) -> Finding:
    """An aborted request ends as cancelled."""
    stream = asker.begin(max_tokens=512, streaming=True, ignore_eos=True)
    if not hasattr(stream, "abort"):
        detail = "this version has no abort()"
        return _finding(_aborts, "release notes 0.19", held=None, detail=detail)
    next(iter(stream))
    stream.abort()
    completion = stream.result().outputs[0]
    return _finding(
        _aborts,
        "executor/result.py",
        held=completion.finish_reason == "cancelled",
        detail=f"{completion.finish_reason} after {len(completion.token_ids)} tokens",
    )


def _shows_the_end_id(asker: _Asker) -> Finding:
    """The end id stands at the end of the ids."""
    ids = list(asker.ask(max_tokens=8, ignore_eos=True).outputs[0].token_ids)

    def end_at_fourth(params: Any) -> None:
        params.end_id, params.stop_token_ids, params.ignore_eos = ids[3], None, False

    completion = asker.ask(max_tokens=8, change=end_at_fourth).outputs[0]
    shown = list(completion.token_ids)
    return _finding(
        _shows_the_end_id,
        "no source says it",
        held=None,
        detail=f"{'yes' if shown[-1:] == [ids[3]] else 'no'}: {shown} for {ids[3]}",
    )


def _holds_stop_ids_back(asker: _Asker) -> Finding:
    """Before min_tokens stop ids are held back, as the end id is."""
    ids = list(asker.ask(max_tokens=8, ignore_eos=True).outputs[0].token_ids)

    def held_back(params: Any) -> None:
        params.ignore_eos, params.end_id = False, max(asker.end_ids)
        params.stop_token_ids, params.min_tokens = [ids[3]], 8

    completion = asker.ask(max_tokens=8, change=held_back).outputs[0]
    held = len(completion.token_ids) == 8
    return _finding(
        _holds_stop_ids_back,
        "no source says it",
        held=None,
        detail=f"{'yes' if held else 'no'}: {list(completion.token_ids)}",
    )
