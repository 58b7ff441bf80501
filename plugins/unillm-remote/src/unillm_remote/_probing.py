# SPDX-License-Identifier: Apache-2.0

"""Probe of a server: its kind, its model, its limits and its tokenizer.

Nothing is believed that can be tried: the last step computes one token, from ids to an
id, by the very code that serves requests later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from ._endpoints.base import Call, Endpoint, Served
from ._endpoints.completions import UnillmCompletions, VllmCompletions
from ._endpoints.generate import VllmGenerate
from ._endpoints.llamacpp import LlamaCppCompletion
from ._endpoints.sglang import SglangGenerate
from ._endpoints.trtllm import TrtllmCompletions
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


_BY_OWNER: Mapping[str, Callable[[], Endpoint]] = {
    "llamacpp": LlamaCppCompletion,
    "sglang": SglangGenerate,
    "tensorrt_llm": TrtllmCompletions,
    "unillm": UnillmCompletions,
}
"""Endpoints by ``owned_by`` of ``/v1/models``. Others are tried as vLLM, whose form
several gateways relay."""


@attrs.frozen(kw_only=True)
class Server:
    """A server that was probed."""

    endpoint: Endpoint
    served: Served
    version: str
    max_model_len: int | None
    """Prompt and new tokens together; `None` if the server does not say."""
    checked_by: str
    """How its tokenizer was compared; empty if it could not be."""


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
        with self._open() as client:
            self._client = client
            cards = self._cards()
            card = _chosen(cards, served_model)
            served = Served(model=str(card["id"]), vocab_size=self._vocab_size)
            endpoint = self._door(card)
            checked_by = self._compare_tokenizers(endpoint, served)
            self._try(endpoint, served)
            return Server(
                endpoint=endpoint,
                served=served,
                version=self._version(),
                max_model_len=self._length(card),
                checked_by=checked_by,
            )

    def _open(self) -> httpx.Client:
        try:
            return httpx.Client(
                base_url=self._address.url,
                headers=self._address.headers,
                timeout=httpx.Timeout(PROBE_TIMEOUT_S, connect=5.0),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            # The address is wrong, or a proxy that the environment names.
            raise self._unavailable(f"{type(error).__name__}: {error}") from error

    # ------------------------------------------------------------------------ the kind

    def _cards(self) -> Sequence[Mapping[str, Any]]:
        self._refuse_triton()
        found = self._json("GET", "/v1/models")
        cards = found.get("data") if isinstance(found, dict) else None
        if not isinstance(cards, list) or not cards:
            raise self._unavailable(f"its /v1/models lists no models: {found!r:.200}")
        named = [each for each in cards if isinstance(each, dict) and each.get("id")]
        if not named:
            raise self._unavailable(f"its /v1/models names no model: {found!r:.200}")
        return named

    def _refuse_triton(self) -> None:
        """Raise if Triton's own protocol answers, which has texts alone."""
        try:
            found = self._request("GET", "/v2").json()
        except ValueError:
            return
        if isinstance(found, dict) and found.get("name") == "triton":
            raise self._unavailable(
                "it is Triton, whose generate endpoint takes and gives text, and ids "
                "that are made of a text again may be others than the model's. Serve "
                "the model with trtllm-serve, vLLM or unillm serve"
            )

    def _door(self, card: Mapping[str, Any]) -> Endpoint:
        """Return the endpoint of a server by the name that it gives itself."""
        make = _BY_OWNER.get(str(card.get("owned_by")))
        if make is not None:
            return make()
        if self._exists(VllmGenerate.path):
            return VllmGenerate()
        return VllmCompletions()

    def _exists(self, path: str) -> bool:
        """Whether the server takes POST at a path; the empty body is refused.

        vLLM forbids a path that it was started without.
        """
        status = self._request("POST", path, {}).status_code
        return status not in (403, 404, 405, 501)

    def _version(self) -> str:
        try:
            found = self._json("GET", "/version")
        except BackendUnavailableError:
            return ""
        return str(found.get("version", "")) if isinstance(found, dict) else ""

    def _length(self, card: Mapping[str, Any]) -> int | None:
        """Return the context that the server says; llama.cpp says it in ``/props``."""
        found = card.get("max_model_len")
        if found is None and card.get("owned_by") == "llamacpp":
            settings = self._json("GET", "/props").get("default_generation_settings")
            found = settings.get("n_ctx") if isinstance(settings, dict) else None
        return found if type(found) is int and found > 1 else None

    # -------------------------------------------------------------------- the tokenizer

    def _compare_tokenizers(self, endpoint: Endpoint, served: Served) -> str:
        tokenizer, path = self._text.tokenizer, endpoint.tokenize_path
        if not self._exists(path):
            return ""
        for text in PROBE_TEXTS:
            ours = tokenizer.encode(text, add_special_tokens=True)
            found = self._json("POST", path, endpoint.tokenize_body(text, served))
            theirs = found.get("tokens") if isinstance(found, dict) else None
            if theirs != ours:
                raise UnsupportedModelError(
                    f"The server at {self._address.url} tokenises {text!r} to "
                    f"{theirs}, and the tokenizer here to {ours}: they belong to "
                    "different models. Pass the server's model or tokenizer=."
                )
        return path

    # ----------------------------------------------------------------------- the tokens

    def _try(self, endpoint: Endpoint, served: Served) -> None:
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
        reader = endpoint.reader(request)
        call = endpoint.call(request, served)
        try:
            for event in self._events(endpoint.path, call):
                if (part := reader.read(event)) is not None:
                    answer.add(part)
                    if answer.ended:
                        break
            answer.last()
        except (AnswerError, RequestError, ValueError) as error:
            raise self._unavailable(
                f"its {endpoint.path} does not give token ids for token ids, and ids "
                f"that are made of a text again may be others than the model's: {error}"
            ) from error

    def _events(self, path: str, call: Call) -> Iterator[Any]:
        response = self._ask("POST", path, call.body)
        wanted = "event-stream" if call.streamed else "json"
        if wanted not in response.headers.get("content-type", ""):
            raise AnswerError(self._said(response))
        datas: Iterable[str] = [response.text]
        if call.streamed:
            datas = EventReader(2**24).feed(response.content)
        for data in datas:
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

    def _request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        try:
            return self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unavailable(
                f"{path}: {type(error).__name__}: {error}"
            ) from error

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        response = self._request(method, path, body)
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
    """Return the card of a model; by default the first model itself."""
    for card in cards:
        if card["id"] == name or (name is None and not card.get("parent")):
            return card
    names = ", ".join(str(card["id"]) for card in cards)
    raise ConfigError(
        f"The server has no model {name!r}. It has: {names}. Pass one of them as "
        'backend_options={"served_model": …}.'
    )
