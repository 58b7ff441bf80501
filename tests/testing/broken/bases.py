# SPDX-License-Identifier: Apache-2.0

"""Correct engines as bases of broken ones, and the register of those.

All engines return the ids of the bundled model, so a broken one differs by its defect
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from unillm.engines.base import Capabilities, Capability, Engine, EngineRequest, Support
from unillm.model.find import find_model
from unillm.scheduling.slots import SlotScheduler
from unillm.testing.backends import ScriptedBackend, reference_script
from unillm.testing.scripted import ScriptedEngine, ScriptedSlotEngine
from unillm.text.loading import load_tokenizer


@attrs.frozen(kw_only=True)
class Broken:
    """A backend with one defect, and the clauses that detect it."""

    name: str
    breaks: str
    """The defect: the docstring of its engine."""
    make_engine: Callable[[Any], Engine]
    caught_by: str
    """The clause about this defect."""
    seen_by: frozenset[str]
    """Other clauses that fail too, because the defect affects them."""
    sometimes: frozenset[str]
    """Others that may fail, depending on thread timing."""
    settings: dict[str, Any]
    """Settings of the adopted contract."""
    engine_options: frozenset[str]
    """Engine options that its backend takes."""

    def backend(self) -> ScriptedBackend:
        backend = ScriptedBackend(
            self.make_engine,
            name=self.name.lower(),
            capabilities=CAPABILITIES,
            waivers=dict.fromkeys((self.caught_by, *self.seen_by), self.breaks),
        )
        backend.engine_options = self.engine_options
        return backend


BROKEN: list[Broken] = []

SETTINGS = {
    "keep_engine": False,
    # Read once for all generators of these tests.
    "options": {"tokenizer": load_tokenizer(find_model("unillm/tiny")).wrapped},
}
"""Settings of every adopted contract without a real engine."""

CAPABILITIES = Capabilities(
    fields={
        "structured_outputs": Capability(
            support=Support.EMULATED, reason="the core masks"
        )
    }
)


def broken(
    caught_by: str,
    seen_by: str = "",
    sometimes: str = "",
    engine_options: frozenset[str] = frozenset(),
    **settings: Any,
):
    """Register an engine class.

    Args:
        caught_by: Number of the clause about the defect.
        seen_by: Numbers of the others that fail, with spaces between.
        sometimes: Numbers of those that may fail or not.
        engine_options: Engine options that its backend takes.
        settings: Of the adopted contract.
    """

    def register(engine):
        make = engine if issubclass(engine, Engine) else engine.scheduled
        BROKEN.append(
            Broken(
                name=engine.__name__,
                breaks=engine.__doc__,
                make_engine=make,
                caught_by=caught_by,
                seen_by=frozenset(seen_by.split()),
                sometimes=frozenset(sometimes.split()),
                settings=settings,
                engine_options=engine_options,
            )
        )
        return engine

    return register


class Changes:
    """Copies of requests with changed fields, each made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], tuple[EngineRequest, EngineRequest]] = {}

    def of(self, request: EngineRequest, **changes: Any) -> EngineRequest:
        """Return a copy of *request* with changed fields, or fields of its params."""
        key = (id(request), *((name, repr(value)) for name, value in changes.items()))
        if key not in self._made:
            own = {field.name for field in attrs.fields(EngineRequest)}
            params = {n: v for n, v in changes.items() if n not in own}
            fields = {n: v for n, v in changes.items() if n in own}
            if params:
                fields["params"] = attrs.evolve(request.params, **params)
            self._made[key] = (request, attrs.evolve(request, **fields))
        return self._made[key][1]


class Own(ScriptedEngine):
    """A correct engine that schedules its requests itself."""

    reference = staticmethod(reference_script)

    def __init__(self, config) -> None:
        script = self.reference()
        super().__init__(
            self.token,
            max_num_seqs=config.max_num_seqs,
            max_model_len=config.max_model_len,
            vocab_size=script.model.vocab_size,
            prompt_script=script.prompt_logprobs,
        )
        self.script = script
        self.changed = Changes().of

    def token(self, request, position):
        return self.script(request, position)


class Slots(ScriptedSlotEngine):
    """A correct static batch with slots."""

    reference = staticmethod(reference_script)

    def __init__(self, config) -> None:
        script = self.reference()
        super().__init__(
            self.token,
            num_slots=config.max_num_seqs,
            max_model_len=config.max_model_len,
            vocab_size=script.model.vocab_size,
            prompt_script=script.prompt_logprobs,
        )
        self.script = script
        self.changed = Changes().of

    def token(self, request, position):
        return self.script(request, position)

    @classmethod
    def scheduled(cls, config) -> Engine:
        return SlotScheduler(
            cls(config), max_num_batched_tokens=config.max_num_batched_tokens
        )

    def slot_of(self, request) -> int:
        return next(s for s, row in self._rows.items() if row.request is request)
