# SPDX-License-Identifier: Apache-2.0

"""What answers at an address: its kind, its model, its limits and its tokenizer.

Nothing is believed that can be tried: the last step computes one token, from ids to an
id, by the very code that serves requests later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import httpx

from unillm.backend import EngineRequest, SamplingParams
from unillm.errors import (
    BackendUnavailableError,
    ConfigError,
    RequestError,
    UnsupportedModelError,
)

from ._address import KEY_VARIABLE
from ._answers import Answer, AnswerError
from ._doors.base import Door, Served
from ._doors.completions import UnillmCompletions, VllmCompletions
from ._events import EventReader
from ._failures import error_text, failure_of

if TYPE_CHECKING:
    from unillm.backend import ModelText

    from ._address import Address

PROBE_TIMEOUT_S = 60.0
"""The first token of a server that has just started takes its time."""

PROBE_TEXTS = (
    "Hello, world 42",
    "  two  spaces\n\n\tand a tab, 3.14159 × 10⁻³",
    "déjà vu – Straße, Ελλάδα, Москва, 東京 🙂👩‍🚀",
    'def f(x):\n    return {"a": [x, -1]}',
)
"""Texts that tokenizers of different models split differently."""


@attrs.frozen(kw_only=True)
class Server:
    """A server that was probed."""

    door: Door
    served: Served
    version: str
    max_model_len: int | None
    """Prompt and new tokens together; `None` if the server does not say."""
    checked_by: str
    """How its tokenizer was compared."""


class Probe:
    """Asks a server what it is.

    Args:
        address: Of the server.
        text: Of the model that this side knows.
        vocab_size: Of that model.
    """

    def __init__(self, address: Address, text: ModelText, *, vocab_size: int) -> None:
        self._address = address
        self._text = text
        self._vocab_size = vocab_size

    def run(self, served_model: str | None) -> Server:
        """Return what answers.

        Args:
            served_model: Name of the model in the server's list; `None` for the first.

        Raises:
            BackendUnavailableError: Nothing answers, or no server that takes and gives
                token ids.
            ConfigError: The server has no model of that name.
            UnsupportedModelError: Its tokenizer is another one.
        """
        with httpx.Client(
            base_url=self._address.url,
            headers=self._address.headers,
            timeout=httpx.Timeout(PROBE_TIMEOUT_S, connect=5.0),
        ) as client:
            self._client = client
            cards = self._cards()
            card = _chosen(cards, served_model)
            served = Served(model=str(card["id"]), vocab_size=self._vocab_size)
            door = self._door(card)
            checked_by = self._compare_tokenizers(served)
            self._try(door, served)
            return Server(
                door=door,
                served=served,
                version=self._version(),
                max_model_len=_length(card),
                checked_by=checked_by,
            )

    # ------------------------------------------------------------------------ the kind

    def _cards(self) -> Sequence[Mapping[str, Any]]:
        found = self._json("GET", "/v1/models")
        cards = found.get("data") if isinstance(found, dict) else None
        if not isinstance(cards, list) or not cards:
            raise self._unavailable(f"its /v1/models lists no models: {found!r:.200}")
        named = [each for each in cards if isinstance(each, dict) and each.get("id")]
        if not named:
            raise self._unavailable(f"its /v1/models names no model: {found!r:.200}")
        return named

    def _door(self, card: Mapping[str, Any]) -> Door:
        owner = str(card.get("owned_by", ""))
        if owner == "unillm":
            return UnillmCompletions()
        return VllmCompletions()

    def _version(self) -> str:
        try:
            found = self._json("GET", "/version")
        except BackendUnavailableError:
            return ""
        return str(found.get("version", "")) if isinstance(found, dict) else ""

    # -------------------------------------------------------------------- the tokenizer

    def _compare_tokenizers(self, served: Served) -> str:
        tokenizer = self._text.tokenizer
        for text in PROBE_TEXTS:
            ours = tokenizer.encode(text, add_special_tokens=True)
            body = {"model": served.model, "prompt": text, "add_special_tokens": True}
            found = self._json("POST", "/tokenize", body)
            theirs = found.get("tokens") if isinstance(found, dict) else None
            if theirs != ours:
                raise UnsupportedModelError(
                    f"The server at {self._address.url} tokenises {text!r} to "
                    f"{theirs}, and the tokenizer here to {ours}: they belong to "
                    "different models. Pass the server's model or tokenizer=."
                )
        return "/tokenize"

    # ----------------------------------------------------------------------- the tokens

    def _try(self, door: Door, served: Served) -> None:
        """Compute one token, as requests do."""
        ids = self._text.tokenizer.encode(PROBE_TEXTS[0], add_special_tokens=True)
        request = EngineRequest(
            request_id="probe",
            prompt_token_ids=tuple(ids),
            params=SamplingParams(temperature=0, max_tokens=1, ignore_eos=True),
            stop_token_ids=frozenset(),
            max_new_tokens=1,
            seed=0,
        )
        answer = Answer(request, vocab_size=self._vocab_size)
        reader = door.reader(request)
        call = door.call(request, served)
        try:
            for event in self._events(door.path, call.body):
                if (part := reader.read(event)) is not None:
                    answer.add(part)
            answer.last()
        except (AnswerError, RequestError, ValueError) as error:
            raise self._unavailable(
                f"its {door.path} does not give token ids for token ids: {error}"
            ) from error

    def _events(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        response = self._ask("POST", path, body)
        if "event-stream" not in response.headers.get("content-type", ""):
            raise AnswerError(self._said(response))
        for data in EventReader(2**24).feed(response.content):
            if data == "[DONE]":
                return
            event = json.loads(data)
            if not isinstance(event, dict):
                raise AnswerError(f"an event must be an object, got {event!r:.80}")
            if (said := error_text(event)) is not None:
                raise AnswerError(said)
            yield event

    # ---------------------------------------------------------------------------- HTTP

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        response = self._ask(method, path, body)
        try:
            return response.json()
        except ValueError:
            raise self._unavailable(f"{path}: {self._said(response)}") from None

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise self._unavailable(
                f"{path}: {type(error).__name__}: {error}"
            ) from error
        if response.status_code != 200:
            raise self._unavailable(f"{path}: {self._said(response)}")
        return response

    def _said(self, response: httpx.Response) -> str:
        said = failure_of(
            response.status_code, response.headers, response.content[:4096]
        ).message
        if response.status_code in (401, 403):
            said += f", which is read from {KEY_VARIABLE}"
        return said

    def _unavailable(self, why: str) -> BackendUnavailableError:
        return BackendUnavailableError(
            self._address.hide(
                f"The server at {self._address.url} cannot be used: {why}."
            ),
            name="remote",
        )


def _chosen(cards: Sequence[Mapping[str, Any]], name: str | None) -> Mapping[str, Any]:
    """Return the card of a model; by default the first that is no adapter."""
    for card in cards:
        if card["id"] == name or (name is None and not card.get("parent")):
            return card
    names = ", ".join(str(card["id"]) for card in cards)
    raise ConfigError(
        f"The server has no model {name!r}. It has: {names}. Pass one of them as "
        'backend_options={"served_model": …}.'
    )


def _length(card: Mapping[str, Any]) -> int | None:
    found = card.get("max_model_len")
    return found if type(found) is int and found > 1 else None
