# SPDX-License-Identifier: Apache-2.0

"""Engines with defects of rows, owners, queues and aborts."""

from __future__ import annotations

import math

import attrs
from testing.subtle.bans import MatchesWordsOverTheBorder

from unillm.engines.base import EngineOutput
from unillm.errors import RequestFailedError
from unillm.testing.backends import reference_script

from .bases import Own, Slots, broken


@broken("R1", "A3 A4 G10 G11 P3 R2 R4 R5 R7 S3 S17 T1")
class SwapsTwoRows(Slots):
    """Exchanges the tokens of the first two rows when all of them decode."""

    def decode(self, slots):
        tokens = list(super().decode(slots))
        if len(slots) == self.num_slots > 1:
            tokens[:2] = tokens[1::-1]
        return tokens


@broken("R2", "A3 A7 E2 E7 E9 E14 G10 G11 L9 P3 P4 R4 R5 R7 S3 T1 T2")
class KeepsTheCounterOfTheRow(Slots):
    """A row that was used twice skips the first token of its third owner."""

    def __init__(self, config):
        super().__init__(config)
        self._owners = [0] * self.num_slots

    def _write(self, chunk):
        if chunk.is_first:
            self._owners[chunk.slot] += 1
        token = super()._write(chunk)
        if token is not None and self._owners[chunk.slot] % 3 == 0:
            row = self._rows[chunk.slot]
            if row.generated < row.request.max_new_tokens:
                return self._next(row)
        return token


@broken("R3")
class NeverRefills(Own):
    """Starts a batch only when the last one has ended completely."""

    def step(self):
        if not self._running:
            return super().step()
        waiting, self._waiting = self._waiting, type(self._waiting)()
        outputs = super().step()
        self._waiting = waiting
        return outputs


@broken("R4")
class ShowsTheLastOwner(Slots):
    """Reads tokens of a longer last owner after the end of a shorter prompt."""

    def __init__(self, config):
        super().__init__(config)
        self._before = {}

    def token(self, request, position):
        left = self._before.get(self.slot_of(request), ())
        if len(left) < len(request.prompt_token_ids) + 40:
            return super().token(request, position)
        seen = (*left[:40], *request.prompt_token_ids)
        return self.script(self.changed(request, prompt_token_ids=seen), position)

    def release(self, slot):
        self._before[slot] = self._rows[slot].request.prompt_token_ids
        super().release(slot)


@broken("R5")
class KeepsPenalties(Slots):
    """Penalises the tokens of the last owner too."""

    def __init__(self, config):
        super().__init__(config)
        self._generated = {}

    def token(self, request, position):
        penalty = request.params.frequency_penalty
        generated = self._generated.get(self.slot_of(request), ())
        if not penalty or not generated:
            return super().token(request, position)
        bias = {
            token_id: -penalty * generated.count(token_id) * 20
            for token_id in generated
        }
        return self.script(self.changed(request, logit_bias=bias), position)

    def release(self, slot):
        row = self._rows[slot]
        if row.request.params.frequency_penalty:
            self._generated[slot] = tuple(
                self.script(row.request, n).token_id for n in range(row.generated)
            )
        super().release(slot)


@broken("R6", "S15 S16", sometimes="G7")
class OneSetOfParams(Own):
    """Uses the params of the last started request for all rows."""

    def token(self, request, position):
        last = list(self._running.values())[-1].request
        same = self.changed(
            request,
            min_tokens=last.params.min_tokens,
            temperature=last.params.temperature,
        )
        return self.script(same, position)


@broken("R6")
class OneSetOfStops(Own):
    """Ends every request at the stop ids of all running ones."""

    def _next(self, row):
        ids = frozenset().union(
            *(each.request.stop_token_ids for each in self._running.values())
        )
        own = row.request
        row.request = self.changed(own, stop_token_ids=ids)
        output = super()._next(row)
        row.request = own
        return output


@broken("R7")
class StallsWhenOthersJoin(Slots):
    """Rows repeat their last token after a prompt of several parts."""

    def __init__(self, config):
        super().__init__(config)
        self._long = False

    def prefill(self, chunks):
        self._long |= any(c.is_last and not c.is_first for c in chunks)
        return super().prefill(chunks)

    def decode(self, slots):
        if self._long:
            for slot in slots[:-1]:
                self._rows[slot].generated -= 1
        self._long = False
        return super().decode(slots)


@broken("R8")
class KnowsNoPriority(Own):
    """Serves requests in the order of their arrival."""

    def add_request(self, request):
        super().add_request(self.changed(request, priority=0))


@broken("R9", "A5")
class ServesTheLastFirst(Own):
    """Starts the latest request of a priority first."""

    def add_request(self, request):
        super().add_request(self.changed(request, arrival=-request.arrival))


@broken("R10", patience_s=2.0)
class StarvesTheLeastUrgent(Own):
    """Never begins a request whose priority is a large number."""

    MAX_STEPS = 400

    def step(self):
        first = self._waiting.peek()
        if not self._running and first is not None and first.priority > 100:
            return []
        return super().step()


# ----------------------------------------------------------------------------- aborts


@broken("A1")
class ReturnsAborts(Own):
    """Returns an output for an aborted request."""

    def __init__(self, config):
        super().__init__(config)
        self._aborted = []

    def abort(self, request_ids):
        self._aborted += [i for i in request_ids if i in self._running]
        super().abort(request_ids)

    def step(self):
        aborted, self._aborted = self._aborted, []
        ends = [EngineOutput(request_id=i, finish_reason="abort") for i in aborted]
        return ends + super().step()


@broken("A2", "A1 A6 A7 G7 G8", patience_s=2.0)
class LosesAborts(Own):
    """Aborts waiting requests only."""

    def abort(self, request_ids):
        super().abort([i for i in request_ids if i not in self._running])


@broken("A3", sometimes="G7 G8 G9", patience_s=2.0)
class LeaksAPlace(Own):
    """Loses the slot of each aborted running request, except the last slot."""

    leaked = 0

    def abort(self, request_ids):
        self.leaked += sum(i in self._running for i in request_ids)
        super().abort(request_ids)

    def step(self):
        limits = self.limits
        slots = max(limits.max_num_seqs - self.leaked, 0)
        self.limits = attrs.evolve(limits, max_num_seqs=slots)
        outputs = super().step()
        self.limits = limits
        return outputs


@broken("A4", sometimes="G7")
class MovesTheWrongRow(Own):
    """Repeats a token of the last request when another one is aborted."""

    def abort(self, request_ids):
        before = len(self._running)
        super().abort(request_ids)
        if len(self._running) < before:
            for row in list(self._running.values())[-1:]:
                row.generated = max(row.generated - 1, 1)


@broken("A5", "G9", patience_s=2.0)
class AbortsOnlyWhatRuns(Own):
    """Does not look for a request in the queue."""

    def abort(self, request_ids):
        super().abort([i for i in request_ids if i not in self._waiting])


@broken("A6")
class RaisesForUnknownIds(Own):
    """Raises for an unknown id."""

    def abort(self, request_ids):
        for request_id in request_ids:
            if not self._has(request_id):
                raise KeyError(request_id)
            super().abort([request_id])


@broken("A7")
class WantsNewIds(Own):
    """Refuses an id that was used before."""

    def __init__(self, config):
        super().__init__(config)
        self._seen = set()

    def add_request(self, request):
        if request.request_id in self._seen:
            raise RequestFailedError("the id came before")
        self._seen.add(request.request_id)
        super().add_request(request)


# ----------------------------------------------------------------------------- limits


@broken("L1")
class ChangesItsLimits(Own):
    """Changes its context length after the first request."""

    def step(self):
        if not any(call[0] == "step" for call in self.calls):
            less = self.limits.max_model_len - 1
            self.limits = attrs.evolve(self.limits, max_model_len=less)
        return super().step()


@broken("L2")
class TakesMoreThanAsked(Own):
    """Runs more requests at a time than its limit."""

    def __init__(self, config):
        super().__init__(attrs.evolve(config, max_num_seqs=config.max_num_seqs + 1))


@broken("L3")
class CutsPrompts(Own):
    """Cuts long prompts in silence."""

    def token(self, request, position):
        kept = request.prompt_token_ids[-250:]
        return self.script(self.changed(request, prompt_token_ids=kept), position)


@broken("L4", "G5")
class HasNoRoomForTheLast(Own):
    """Ends a request one token before the context is full."""

    def add_request(self, request):
        room = self.limits.max_model_len - len(request.prompt_token_ids) - 1
        limit = max(min(request.max_new_tokens, room), 1)
        super().add_request(self.changed(request, max_new_tokens=limit))


@broken("L5", "G4 T12")
class HasASmallerVocabulary(Own):
    """Fails on the last id of its declared vocabulary."""

    def token(self, request, position):
        if self.limits.vocab_size - 1 in request.prompt_token_ids:
            from unillm.engines.slots import SlotToken

            return SlotToken(-1, error="no such row")
        return super().token(request, position)


@broken("L6", "A5", sometimes="G9")
class ExceedsItsLimit(Own):
    """Declares half of its slots."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.slots = self.limits.max_num_seqs
        self.limits = attrs.evolve(self.limits, max_num_seqs=self.slots // 2)

    def step(self):
        declared = self.limits
        self.limits = attrs.evolve(declared, max_num_seqs=self.slots)
        outputs = super().step()
        self.limits = declared
        return outputs


@broken("L8")
class CountsInSets(Own):
    """Has a statistic that is not a JSON value."""

    def stats(self):
        return {"running": set(self._running)}


@broken("L8")
class LosesCountAtWork(Own):
    """Raises in `stats` while requests run."""

    def stats(self):
        return {"share": math.nan, "first": [*self._running, *self._waiting][:0]} | (
            {} if not self._running else {"bad": object()}
        )


@broken("L9")
class FindsAllCached(Own):
    """Reports the whole prompt as cached."""

    def _next(self, row):
        count = len(row.request.prompt_token_ids)
        return attrs.evolve(super()._next(row), num_cached_tokens=count)


@broken("R12", engine_options=frozenset({"enable_prefix_caching"}))
class CachesByLength(Own):
    """Takes a cached prompt of the same length and last id for the same one."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.cached = {} if config.enable_prefix_caching else None

    def token(self, request, position):
        if self.cached is not None:
            prompt = request.prompt_token_ids
            known = self.cached.setdefault((len(prompt), prompt[-1]), prompt)
            request = self.changed(request, prompt_token_ids=known)
        return self.script(request, position)


@broken("R11")
class MatchesWordsInPrompts(Own):
    """Bans the end of a bad word that begins in the prompt."""

    def reference(self):
        return MatchesWordsOverTheBorder(reference_script().model)
