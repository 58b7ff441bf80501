# SPDX-License-Identifier: Apache-2.0

"""Engines that lose a part of some prompts."""

from __future__ import annotations

from testing.broken.bases import Own

from .bases import TOKEN, subtle


class OtherPrompts(Own):
    """Computes changed prompts."""

    def token(self, request, position):
        prompt = tuple(self.prompt(request.prompt_token_ids))
        return self.script(self.changed(request, prompt_token_ids=prompt), position)

    def prompt(self, ids):
        raise NotImplementedError


@subtle(TOKEN)
class DropsTrailingPads(OtherPrompts):
    """Drops ids of padding from the end of a prompt."""

    def prompt(self, ids):
        while len(ids) > 1 and ids[-1] == 507:
            ids = ids[:-1]
        return ids


@subtle(TOKEN)
class KeepsTheLast64(OtherPrompts):
    """Computes only the last 64 ids of a prompt."""

    def prompt(self, ids):
        return ids[-64:]


@subtle(TOKEN)
class LosesAFullPage(OtherPrompts):
    """Loses the first id of a prompt whose length is a whole number of pages."""

    def prompt(self, ids):
        return ids[1:] if len(ids) % 16 == 0 else ids


@subtle(TOKEN)
class LosesTheSecondChunk(OtherPrompts):
    """Loses the first id of the second chunk of a prompt."""

    def prompt(self, ids):
        return (*ids[:64], *ids[65:]) if len(ids) > 65 else ids
