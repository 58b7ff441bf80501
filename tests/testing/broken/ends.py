# SPDX-License-Identifier: Apache-2.0

"""Engines that end requests or report their ends wrongly."""

from __future__ import annotations

import threading

import attrs
import numpy as np

from .bases import Own, broken


@broken("E1", "C6")
class ReturnsMoreAfterTheEnd(Own):
    """Returns one more output, without ids, after the end of a request."""

    ended = ()

    def step(self):
        from unillm.engines.base import EngineOutput

        again = [EngineOutput(request_id=each) for each in self.ended]
        outputs = super().step() if self.has_unfinished() else []
        self.ended = [o.request_id for o in outputs if o.finish_reason]
        return outputs + (again if outputs else [])


@broken("E1", "C6 P1")
class AnswersTwice(Own):
    """Returns the end of a request twice."""

    def step(self):
        outputs = super().step()
        ends = [o for o in outputs if o.finish_reason]
        return outputs + [attrs.evolve(o, token_ids=(), logprobs=None) for o in ends]


@broken(
    "E2",
    "A3 A4 A7 C4 C5 C6 E3 E6 E7 E9 E14 L9 P1 R1 R2 R4 R5 R6 R7 S5 S7 S8 S16 S17 S18 T1 T2 T4 T12",
)
class ForgetsTheEosToken(Own):
    """Leaves the id that ended a request out of the new ids."""

    def _next(self, row):
        output = super()._next(row)
        if output.finish_reason != "stop":
            return output
        return attrs.evolve(output, token_ids=(), logprobs=None)


@broken(
    "E2",
    "A3 A4 A7 C4 C5 C6 E4 E6 E7 E8 E9 E13 E14 G2 G3 G5 G6 G7 G8 G9 G10 G11 G16 L3 L4 L5 L9 P1 P2 P3 P4 P5 P6 P8 R1 R2 R4 R5 R6 R7 S1 S5 S6 S7 S8 S9 S10 S11 S12 S13 S14 S15 S16 S17 S18 T1 T2 T3 T4 T5 T6 T7 T9 T10 T12 T13 T14 T15",
)
class EchoesThePrompt(Own):
    """Returns the last id of the prompt before the first new one."""

    def _next(self, row):
        output = super()._next(row)
        if row.generated != 1:
            return output
        last = row.request.prompt_token_ids[-1]
        return attrs.evolve(output, token_ids=(last, *output.token_ids))


@broken(
    "E2",
    "A3 A4 A7 C4 C5 C6 E4 E6 E7 E8 E9 E14 G2 G3 G5 G6 G7 G8 G9 G10 G11 G16 L4 L5 L9 P1 P2 P3 P4 P5 P6 P8 R1 R2 R4 R5 R6 R7 S9 S10 S11 S12 S13 S14 S17 S18 T1 T2 T3 T4 T5 T6 T7 T9 T10 T12 T13 T14 T15",
)
class ReturnsCumulativeIds(Own):
    """Returns cumulative ids in each output."""

    def _next(self, row):
        output = super()._next(row)
        generated = [self.token(row.request, n).token_id for n in range(row.generated)]
        return attrs.evolve(output, token_ids=tuple(generated))


@broken("E3", "E6 E7 T1 T2 T4")
class NamesNoStop(Own):
    """Never names the id that ended a request."""

    def _next(self, row):
        return attrs.evolve(super()._next(row), stop_token_id=None)


@broken("E3", "E6 E7")
class NamesTheWrongStop(Own):
    """Names the largest stop id, whichever ended the request."""

    def _next(self, row):
        output = super()._next(row)
        if output.stop_token_id is None:
            return output
        return attrs.evolve(output, stop_token_id=max(row.request.stop_token_ids))


@broken(
    "E4",
    "E8 E9 L5 R5 R6 S1 S5 S6 S7 S8 S9 S10 S11 S12 S13 S14 S15 S16 S17 S18 T5 T6 T10",
)
class GoesOneTooFar(Own):
    """Gives one token more than was allowed, where the context has room."""

    def add_request(self, request):
        longest = self.limits.max_model_len - len(request.prompt_token_ids)
        limit = min(request.max_new_tokens + 1, longest)
        super().add_request(self.changed(request, max_new_tokens=limit))


@broken("E4", "E6 E8 E9 E14 G5 L4 L5 R5 R6 S9 S10 S11 S12 S13 S14 S17 S18 T5 T6 T10")
class CountsThePromptsToken(Own):
    """Gives one token less than was allowed, but at least one."""

    def add_request(self, request):
        limit = max(request.max_new_tokens - 1, 1)
        super().add_request(self.changed(request, max_new_tokens=limit))


@broken("E4", "C6 E8 G5 R10 T5 T6")
class NamesLengthStop(Own):
    """Has the reason "stop" for every end."""

    def _next(self, row):
        output = super()._next(row)
        if output.finish_reason is None:
            return output
        return attrs.evolve(output, finish_reason="stop")


@broken("E5", "G5 T5 T6 T10")
class NamesEveryLastId(Own):
    """Names the last id as the stop id even after "length"."""

    def _next(self, row):
        output = super()._next(row)
        if output.finish_reason != "length":
            return output
        return attrs.evolve(output, stop_token_id=output.token_ids[-1])


@broken("E6")
class LooksAtTheLengthFirst(Own):
    """Has the reason "length" for a stop id as the last allowed token."""

    def _next(self, row):
        output = super()._next(row)
        if (
            output.finish_reason == "stop"
            and row.generated == row.request.max_new_tokens
        ):
            return attrs.evolve(output, finish_reason="length", stop_token_id=None)
        return output


@broken("E7", "R6 T4")
class DropsAStopId(Own):
    """Knows only the three largest stop ids."""

    def add_request(self, request):
        ids = frozenset(sorted(request.stop_token_ids)[-3:])
        super().add_request(self.changed(request, stop_token_ids=ids))


@broken("E8", "E14 L4 L5 S9 S10 S11 T5")
class KnowsItsOwnEosTokens(Own):
    """Ends a request at the model's EOS tokens, whatever its stop ids are."""

    def add_request(self, request):
        ids = request.stop_token_ids | {506, 510, 511}
        super().add_request(self.changed(request, stop_token_ids=ids))


@broken("E14")
class MasksTheEosTokensAlone(Own):
    """Masks the model's EOS tokens before `min_tokens`, and not the user's stop ids."""

    def token(self, request, position):
        if not request.stop_token_ids & {506, 510, 511}:
            request = self.changed(request, min_tokens=0)
        return self.script(request, position)


@broken("E9", "C6 E14 R6")
class CountsThePrompt(Own):
    """Counts the prompt towards `min_tokens`."""

    def add_request(self, request):
        left = max(request.params.min_tokens - len(request.prompt_token_ids), 0)
        super().add_request(self.changed(request, min_tokens=left))


@broken("E9", "C6 E14 R6")
class HidesEarlyStops(Own):
    """Replaces a stop id before `min_tokens`, instead of not sampling it."""

    def token(self, request, position):
        early = position < request.params.min_tokens
        free = self.changed(request, min_tokens=0)
        token = self.script(free, position)
        if early and token.token_id in request.stop_token_ids:
            return attrs.evolve(token, token_id=220)
        return token


@broken("E10", patience_s=0.5)
class WaitsWhenIdle(Own):
    """Waits for work in `step` when there is none."""

    def step(self):
        if not self.has_unfinished():
            threading.Event().wait(2.0)
        return super().step()


@broken("E11", "G7 G8 G9", patience_s=1.0)
class IsBusyForever(Own):
    """Counts as unfinished for one more step after the last end."""

    settled = True

    def step(self):
        outputs = super().step()
        self.settled = not outputs
        return outputs

    def has_unfinished(self):
        return super().has_unfinished() or not self.settled

    def abort(self, request_ids):
        super().abort(request_ids)
        self.settled = True


@broken("E12")
class GivesLiveLists(Own):
    """Returns ids in a list that it keeps changing."""

    def __init__(self, config):
        super().__init__(config)
        self._lists = {}

    def _next(self, row):
        output = super()._next(row)
        ids = self._lists.setdefault(id(row), [])
        ids[:] = output.token_ids
        return attrs.evolve(output, token_ids=ids)


@broken("E12", "S5 S6 S7 S16")
class WritesIntoParams(Own):
    """Changes a field of the request's params."""

    def add_request(self, request):
        super().add_request(request)
        request.params.top_k = 7


@broken("E13")
class NeedsTwoIds(Own):
    """Ends a prompt of a single id with an error."""

    def token(self, request, position):
        from unillm.engines.slots import SlotToken

        if len(request.prompt_token_ids) == 1:
            return SlotToken(-1, error="the prompt is too short")
        return super().token(request, position)


@broken("T9", "A3 G10 G11 R2 R4 T1")
class SplitsACharacter(Own):
    """Drops ids that are only a part of a character."""

    def _next(self, row):
        output = super()._next(row)
        if set(output.token_ids) & {127, 172, 253, 247}:
            return attrs.evolve(output, token_ids=(), logprobs=None)
        return output


@broken("E15", "E16")
class ReturnsNumbersOfNumpy(Own):
    """Returns ids of numpy."""

    def _next(self, row):
        output = super()._next(row)
        return attrs.evolve(output, token_ids=tuple(np.array(output.token_ids)))


@broken("E16")
class DropsPadsAtTheEnd(Own):
    """Drops ids of padding from the end of a prompt."""

    def token(self, request, position):
        prompt = request.prompt_token_ids
        while len(prompt) > 1 and prompt[-1] == 507:
            prompt = prompt[:-1]
        return self.script(self.changed(request, prompt_token_ids=prompt), position)
