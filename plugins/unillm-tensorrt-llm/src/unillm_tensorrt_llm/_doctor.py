# SPDX-License-Identifier: Apache-2.0

"""Checks the plugin's assumptions about TensorRT-LLM against the installed one.

A finding that did not hold is an error of this plugin, and one without a source is a
new fact. Both are worth a report.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from unillm.backend import (
    EngineRequest,
    Finding,
    SamplingParams,
    Support,
    read_model_text,
)

from . import _sampling
from ._checks import Seen, findings
from ._entry_paths import Installed, choose
from ._llm import LlmEngine
from ._names import BEFORE_0_13
from ._opening import load
from ._runner_doctor import examine_runner

if TYPE_CHECKING:
    from unillm.backend import EngineConfig

PROMPT = "Count from 3 to 9:"

_SOME_ID = 65
"""An id that a model does not repeat four times of its own accord."""

_FIELDS = (
    "end_id",
    "stop_token_ids",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "include_stop_str_in_output",
)
"""Fields that every version has, under these names or older ones."""

_DRAWS = 24
"""Requests with different seeds, which are drawn together."""


def examine(config: EngineConfig) -> Iterator[Finding]:
    """Yield a finding for each assumption, as soon as it is checked."""
    installed = Installed.look()
    choice = choose(installed, config.path, config.backend_options.get("door"))
    yield Finding(
        assumption=f"the entry path is {choice.entry_path.value!r}",
        source="_entry_paths.py",
        held=True,
        detail=f"TensorRT-LLM {installed.version}: {choice.reason}",
    )
    text = read_model_text(
        config.path, config.tokenizer, trust_remote_code=config.trust_remote_code
    )
    prompt = tuple(text.tokenizer.encode(PROMPT, add_special_tokens=True))
    with contextlib.closing(load(config)) as engine:
        if isinstance(engine, LlmEngine):
            asker = _Asker(engine, installed, prompt, text.eos.ids)
            yield from findings(asker, _CHECKS)
        else:
            yield from examine_runner(engine, prompt)


class _Asker:
    """Submits requests to the raw ``LLM`` as the engine does."""

    def __init__(
        self,
        engine: LlmEngine,
        installed: Installed,
        prompt: Sequence[int],
        eos_ids: frozenset[int],
    ) -> None:
        self._engine = engine
        # The C++ decoder alone cuts a large top-k.
        self.is_cpp = not self.honours("top_k.large")
        self.params_class = installed.sampling_params
        self.prompt = prompt
        self.eos_ids = eos_ids

    def honours(self, name: str) -> bool:
        """Return whether the engine declares a field or an aspect."""
        found = self._engine.capabilities.of(name)
        return found.support is not Support.UNSUPPORTED

    def draw(self, seeds: Iterable[int], **fields: Any) -> list[list[int]]:
        """Return the new ids of requests that run together, one for each seed."""
        # After a single token the next one is uncertain.
        prompt = self.prompt[-1:]
        running = [
            self.begin(streaming=False, prompt=prompt, seed=seed, **fields)
            for seed in seeds
        ]
        return [list(each.result().outputs[0].token_ids) for each in running]

    def ask(self, *, max_tokens: int = 32, change: Any = None, **fields: Any) -> Any:
        """Return the finished result of one request."""
        result = self.begin(
            max_tokens=max_tokens, change=change, streaming=False, **fields
        )
        return result.result()

    def free_ids(self) -> list[int]:
        """Return eight greedy ids that no stop id ends."""
        return list(self.ask(max_tokens=8, ignore_eos=True).outputs[0].token_ids)

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
        ends = frozenset[int]() if params.ignore_eos else self.eos_ids
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


def _has_fields(asker: _Asker) -> Seen:
    """SamplingParams has every field that the plugin sets."""
    known = inspect.signature(asker.params_class).parameters
    missing = [
        name for name in _FIELDS if not {name, BEFORE_0_13.get(name)} & known.keys()
    ]
    return not missing, f"missing: {', '.join(missing) or 'none'}"


def _leaves_out_the_prompt(asker: _Asker) -> Seen:
    """Results hold the new tokens alone."""
    ids = list(asker.ask(max_tokens=4, ignore_eos=True).outputs[0].token_ids)
    detail = f"{len(asker.prompt)} tokens in, 4 asked, {len(ids)} came: {ids}"
    return len(ids) == 4, detail


def _one_object_grows(asker: _Asker) -> Seen:
    """Iterating yields the same object, its ids cumulative."""
    stream = asker.begin(max_tokens=4, streaming=True, ignore_eos=True)
    lengths, objects = [], set()
    for each in stream:
        objects.add(id(each))
        lengths.append(len(each.outputs[0].token_ids))
    held = len(objects) == 1 and lengths == sorted(lengths)
    return held, f"{len(objects)} object(s), lengths {lengths}"


def _top_k_of_one_is_greedy(asker: _Asker) -> Seen:
    """A top_k of 1 is greedy, whatever the seed."""
    first = list(asker.ask(seed=1, ignore_eos=True).outputs[0].token_ids)
    second = list(asker.ask(seed=2, ignore_eos=True).outputs[0].token_ids)
    return first == second, f"{first[:8]}… and {second[:8]}…"


def _adds_its_bias(asker: _Asker) -> Seen:
    """An embedding_bias is added to the logits, and can force and ban ids."""
    if "embedding_bias" not in inspect.signature(asker.params_class).parameters:
        return None, "this version has no embedding_bias"
    asked: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True}
    forced = asker.ask(**asked, logit_bias={_SOME_ID: 100.0}).outputs[0]
    allowed = asker.ask(**asked, allowed_token_ids=[_SOME_ID]).outputs[0]
    seen = [list(forced.token_ids), list(allowed.token_ids)]
    return seen == [[_SOME_ID] * 4] * 2, f"{_SOME_ID} was asked for: {seen}"


def _temperature_draws(asker: _Asker) -> Seen:
    """Requests at a high temperature draw several tokens, at a low one fewer."""
    fields: dict[str, Any] = {"max_tokens": 8, "ignore_eos": True}
    hot, cool = (
        len(set(map(tuple, asker.draw(range(_DRAWS), temperature=each, **fields))))
        for each in (2.0, 0.2)
    )
    held = hot > 1 and cool < hot
    detail = f"{hot} of {_DRAWS} answers differ at 2.0, {cool} at 0.2"
    return _declared(asker, "temperature", held), detail


def _a_penalty_changes_the_answer(asker: _Asker) -> Seen:
    """A repetition penalty changes a greedy answer."""
    asked: dict[str, Any] = {"prompt": asker.prompt[-1:], "ignore_eos": True}
    plain = list(asker.ask(**asked).outputs[0].token_ids)
    other = list(asker.ask(**asked, repetition_penalty=2.0).outputs[0].token_ids)
    held = plain != other
    return _declared(asker, "repetition_penalty", held), f"{plain[:8]}… {other[:8]}…"


def _seeds_repeat(asker: _Asker) -> Seen:
    """A seed repeats its tokens beside others, and another one gives others."""
    fields: dict[str, Any] = {"max_tokens": 16, "temperature": 2.0, "ignore_eos": True}
    [alone] = asker.draw([1], **fields)
    other, beside, *_ = asker.draw([2, 1, 3, 4], **fields)
    repeats, differs = alone == beside, alone != other
    held = repeats and differs
    detail = f"repeats: {repeats}; differs: {differs}"
    return _declared(asker, "seed", held), detail


def _declared(asker: _Asker, field: str, held: bool) -> bool | None:
    """Return *held*, or `None` if requests with the field are refused here."""
    return held if asker.honours(field) else None


def _ends_at_every_stop_id(asker: _Asker) -> Seen:
    """A stop id ends a request, and stop_reason names it."""
    fourth = asker.free_ids()[3]
    completion = asker.ask(max_tokens=8, stop_token_ids=[fourth]).outputs[0]
    # Results of 0.12 and 0.13 have no reasons.
    reason = getattr(completion, "finish_reason", "stop")
    named = getattr(completion, "stop_reason", None)
    ids = list(completion.token_ids)
    held = reason == "stop" and named in (None, fourth) and len(ids) < 8
    return held, f"{(reason, named, ids)} for stop id {fourth}"


def _runs_on_under_ignore_eos(asker: _Asker) -> Seen:
    """A request without an EOS token runs to its length."""
    completion = asker.ask(max_tokens=64, ignore_eos=True).outputs[0]
    count = len(completion.token_ids)
    reason = getattr(completion, "finish_reason", "no reason")
    return count == 64, f"{count} of 64, {reason}"


def _aborts(asker: _Asker) -> Seen:
    """An aborted request ends as cancelled."""
    stream = asker.begin(max_tokens=512, streaming=True, ignore_eos=True)
    if not hasattr(stream, "abort"):
        return None, "this version has no abort()"
    next(iter(stream))
    stream.abort()
    completion = stream.result().outputs[0]
    reason = completion.finish_reason
    return reason == "cancelled", f"{reason} after {len(completion.token_ids)} tokens"


def _shows_the_eos_token(asker: _Asker) -> Seen:
    """TorchSampler shows the EOS token at the end, the C++ decoder hides it."""
    fourth = asker.free_ids()[3]
    asked: dict[str, Any] = {"ignore_eos": True, "stop_token_ids": [fourth]}
    shown = list(asker.ask(max_tokens=8, **asked).outputs[0].token_ids)
    is_shown = shown[-1:] == [fourth]
    answer = "shown" if is_shown else "hidden"
    return is_shown is not asker.is_cpp, f"{answer}: {shown} for {fourth}"


def _min_tokens_holds_back_the_end(asker: _Asker) -> Seen:
    """Before min_tokens the only stop id is not sampled."""
    fourth = asker.free_ids()[3]
    ids = list(
        asker.ask(max_tokens=8, ignore_eos=True, stop_token_ids=[fourth], min_tokens=8)
        .outputs[0]
        .token_ids
    )
    held = len(ids) == 8 and fourth not in ids
    return _declared(asker, "min_tokens", held), f"{ids} without {fourth}"


def _bans_bad_ids(asker: _Asker) -> Seen:
    """An id of bad_token_ids is not sampled."""
    first = asker.free_ids()[0]

    def ban(params: Any) -> None:
        params.bad_token_ids = [first]

    asked = asker.ask(max_tokens=8, ignore_eos=True, change=ban)
    ids = list(asked.outputs[0].token_ids)
    return _declared(asker, "bad_words", first not in ids), f"{ids} without {first}"


_CHECKS = (
    (_has_fields, "sampling_params.py"),
    (_leaves_out_the_prompt, "release notes 0.10"),
    (_one_object_grows, "executor/result.py"),
    (_top_k_of_one_is_greedy, "sampling_params.py"),
    (_adds_its_bias, "sampling_params.py"),
    (_temperature_draws, "_torch/pyexecutor/sampler; samplingTopPKernels.cu"),
    (_a_penalty_changes_the_answer, "penaltyKernels.cu; sampler/penalties.py"),
    (_seeds_repeat, "curand states of each slot; sampler/seed_manager.py"),
    (_ends_at_every_stop_id, "executor/result.py"),
    (_runs_on_under_ignore_eos, "executor/base_worker.py"),
    (_aborts, "executor/result.py; release notes 0.19"),
    (_shows_the_eos_token, "samplingTopKKernels.cu; sampler/finish_reasons.py"),
    (_min_tokens_holds_back_the_end, "penaltyKernels.cu; sampler/token_ban.py"),
    (_bans_bad_ids, "banBadWords.cu; sampler/token_ban.py"),
)
"""Each with the source of its assumption."""
