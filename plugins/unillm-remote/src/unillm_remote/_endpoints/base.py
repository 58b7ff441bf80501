# SPDX-License-Identifier: Apache-2.0

"""`Endpoint`: the form of one endpoint, and what the endpoints share."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from unillm.backend import Capabilities, Capability, Support
from unillm.errors import InvalidParameterError, UnsupportedParameterError

from .._answers import AnswerError

if TYPE_CHECKING:
    from unillm.backend import EngineRequest

    from .._answers import Part


def refused(reason: str) -> Capability:
    """Return the capability of a field that a server does not honour."""
    return Capability(support=Support.UNSUPPORTED, reason=reason)


HOLDS_EOS = refused(
    "until min_tokens the server holds back the model's EOS tokens too, although "
    "ignore_eos lets them pass"
)

NOT_TRIED = refused(
    "the server's own grammar backend decides what a structure means, and unillm has "
    "not been run against it"
)

ONE_ID_BANNED = Capability(
    support=Support.EMULATED,
    reason="a bad word of one token is left out of allowed_token_ids, so the body "
    "names every other id of the vocabulary",
)


@attrs.frozen(kw_only=True)
class Served:
    """Facts about a server that an endpoint needs."""

    model: str
    """Name of the model in bodies."""
    vocab_size: int


@attrs.frozen(kw_only=True)
class Call:
    """One request in the server's words."""

    body: Mapping[str, Any]
    streamed: bool
    """Whether the answer comes as events; otherwise it is one body."""


class Reader(abc.ABC):
    """Reads the answer to one request.

    Args:
        request: That the server answers.
    """

    def __init__(self, request: EngineRequest) -> None:
        self._request = request

    @abc.abstractmethod
    def read(self, event: Mapping[str, Any]) -> Part | None:
        """Return the news of an event or of the whole body; `None` if it has none.

        Raises:
            AnswerError: It does not have the form of this endpoint.
        """


class Endpoint(abc.ABC):
    """The form of one endpoint of one kind of server."""

    kind: str
    """The server's name, for people."""
    path: str
    """Path of the endpoint."""
    health_path = "/health"
    """Path that answers while the server works."""
    tokenize_path = "/tokenize"
    """Path that returns the ids of a text."""
    capabilities: Capabilities = Capabilities()
    """How the server honours each field."""

    def tokenize_body(self, text: str, served: Served) -> dict[str, Any]:
        """Return the body that asks for the ids of a text, BOS and the like included.

        The answer has them as ``tokens``.
        """
        return {"model": served.model, "prompt": text, "add_special_tokens": True}

    @abc.abstractmethod
    def call(self, request: EngineRequest, served: Served) -> Call:
        """Return a request in the server's words.

        Raises:
            RequestError: The server cannot compute it.
        """

    @abc.abstractmethod
    def reader(self, request: EngineRequest) -> Reader:
        """Return a reader of the answer to a request."""


def allowed_ids(request: EngineRequest, served: Served) -> list[int] | None:
    """Return the only ids that a request may get, without bad words of one token.

    Returns:
        `None` if all are allowed.

    Raises:
        InvalidParameterError: No id is left.
    """
    params = request.params
    banned = {ids[0] for ids in request.bad_words_token_ids if len(ids) == 1}
    if params.allowed_token_ids is None and not banned:
        return None
    allowed: Iterable[int] = params.allowed_token_ids or range(served.vocab_size)
    left = [i for i in allowed if i not in banned]
    held = request.stop_token_ids if params.min_tokens else frozenset()
    # Some servers choose a token all the same.
    if held.issuperset(left):
        raise InvalidParameterError(
            f"allowed_token_ids={params.allowed_token_ids} leaves no token: bad_words, "
            "or min_tokens before an EOS token, forbid each of them. Allow another.",
            parameter="allowed_token_ids",
            value=params.allowed_token_ids,
        )
    return left


def refuse_sequences(request: EngineRequest, reason: str) -> None:
    """Raise if a bad word has several tokens, and its last one is not banned alone."""
    alone = {ids[0] for ids in request.bad_words_token_ids if len(ids) == 1}
    if any(ids[-1] not in alone for ids in request.bad_words_token_ids):
        raise UnsupportedParameterError(
            f"bad_words of several tokens are refused: {reason}.",
            parameter="bad_words",
            value=request.params.bad_words,
        )


def banned_ids(request: EngineRequest, served: Served) -> list[int]:
    """Return the ids that a request never gets.

    Raises:
        InvalidParameterError: They are all.
    """
    allowed = allowed_ids(request, served)
    if allowed is None:
        return []
    left = set(allowed)
    return [i for i in range(served.vocab_size) if i not in left]


def object_of(value: Any, name: str) -> Mapping[str, Any]:
    """Return an object of JSON.

    Raises:
        AnswerError: It is none.
    """
    if not isinstance(value, dict):
        raise AnswerError(f"{name} must be an object, got {value!r:.80}")
    return value


def list_of(value: Any, name: str) -> list[Any]:
    """Return a list of JSON.

    Raises:
        AnswerError: It is none.
    """
    if not isinstance(value, list):
        raise AnswerError(f"{name} must be a list, got {value!r:.80}")
    return value
