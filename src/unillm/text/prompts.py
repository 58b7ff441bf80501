# SPDX-License-Identifier: Apache-2.0

"""Prompts: from the argument of a call to the ids that an engine gets.

`as_prompts` splits the argument without a look at the single prompts; `normalise` and
`prepare` check each one by itself, so a bad prompt fails alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import attrs
from typing_extensions import Required, TypedDict

from ..errors import (
    InvalidParameterError,
    InvalidPromptError,
    PromptTooLongError,
    PromptTypeError,
    UnsupportedParameterError,
)
from ..params import SamplingParams
from .bounded import panics_as_errors
from .containers import as_list, is_container, plain_value

if TYPE_CHECKING:
    from ..engines.base import EngineLimits
    from .tokenizer import Tokenizer

_MEDIA = frozenset(
    {"multi_modal_data", "multi_modal_uuids", "mm_processor_kwargs", "media_io_kwargs"}
)
"""Keys of vLLM's prompts that are taken without a value."""

_KEYS = _MEDIA | {"prompt", "prompt_token_ids", "cache_salt"}

_NAMED = 5
"""Most wrong ids that a message names."""

_FORMS = (
    'a text, a list of token ids, {"prompt": text}, {"prompt_token_ids": ids}, '
    '{"messages": conversation}, or a list, an array or a column of these'
)


class TextPrompt(TypedDict):
    """A prompt as text, in vLLM's form."""

    prompt: str


class TokensPrompt(TypedDict, total=False):
    """A prompt as token ids, in vLLM's form; the output repeats the text."""

    prompt_token_ids: Required[Sequence[int]]
    prompt: str | None


Conversation = Sequence[Mapping[str, Any]]
"""Messages such as ``{"role": "user", "content": "…"}``."""


class MessagesPrompt(TypedDict, total=False):
    """A prompt as a conversation, which the chat template renders.

    The other keys are the arguments of `Generator.chat` of the same names.
    """

    messages: Required[Conversation]
    chat_template: str | None
    chat_template_content_format: str
    add_generation_prompt: bool
    continue_final_message: bool
    tools: Sequence[Any] | None
    chat_template_kwargs: Mapping[str, Any] | None


class TokenArray(Protocol):
    """**Protocol:** an array or a column of numpy, torch, pandas or the like.

    Integers are the token ids of one prompt; anything else is a list of prompts.
    """

    @property
    def ndim(self) -> int:
        """Number of dimensions; a prompt has one."""

    def tolist(self) -> Any:
        """Return the values as a list."""


PromptType = (
    str | Sequence[int] | TokenArray | TextPrompt | TokensPrompt | MessagesPrompt
)
"""One prompt in the forms that a caller may write."""

Prompts = (
    str
    | TokenArray
    | TextPrompt
    | TokensPrompt
    | MessagesPrompt
    | Sequence[int | PromptType]
)
"""One prompt or several: ``PromptType | Sequence[PromptType]`` with one sequence type,
because mypy infers no list of dicts where two sequence types are possible."""


@attrs.frozen
class PlainText:
    """A text that needs special tokens around it, such as BOS."""

    text: str
    cache_salt: str | None = None


@attrs.frozen
class RenderedText:
    """A text of a chat template, which holds its special tokens already."""

    text: str
    cache_salt: None = None


@attrs.frozen
class TokenIds:
    """Unchecked ids, and the text that the output repeats."""

    token_ids: Sequence[Any]
    text: str | None = None
    cache_salt: str | None = None


Prompt = PlainText | RenderedText | TokenIds


@attrs.frozen(kw_only=True)
class PreparedPrompt:
    """A prompt that fits the engine."""

    text: str | None
    """The text that was tokenised; `None` for a prompt of ids."""
    token_ids: tuple[int, ...]
    num_truncated: int
    """Ids that `truncate_prompt_tokens` cut from the start."""
    max_new_tokens: int
    """`max_tokens`, or the room in the context if that is less."""
    fitted: bool
    """Whether the context has less room than `max_tokens`."""


# ---------------------------------------------------------------------- forms of a call


def as_prompts(prompts: Any) -> list[Any]:
    """Split the argument of `generate` into single, unchecked prompts.

    A text, a dict, a range, and a list, an array or a column that begins with an
    integer are one prompt.

    Raises:
        PromptTypeError: The argument is neither a prompt nor a list of prompts.
    """
    if isinstance(prompts, (str, Mapping, range)):
        return [prompts]
    if is_container(prompts):
        if getattr(prompts, "ndim", 1) != 1:
            return [prompts]  # which is refused as one
        values = as_list(prompts)
    elif _is_list(prompts):
        values = list(prompts)
    else:
        raise _wrong_form(prompts)
    return [prompts] if values and _is_integer(values[0]) else values


def as_conversations(messages: Any) -> list[Any]:
    """Split the argument of `chat` into single, unchecked conversations.

    Raises:
        PromptTypeError: The argument is neither a list of messages nor a list of such
            lists.
    """
    if is_container(messages):
        messages = as_list(messages)
    if not _is_list(messages):
        raise PromptTypeError(
            'A conversation must be a list of messages such as {"role": "user", '
            '"content": "…"}, or a list of such lists; got '
            f"{type(messages).__name__}."
        )
    if messages and isinstance(messages[0], Mapping):
        return [messages]
    return list(messages)


def normalise(item: Any) -> Prompt:
    """Return one prompt as a value, with unchecked ids.

    Raises:
        PromptTypeError: The prompt has a form that is not supported.
    """
    item = plain_value(item)
    if isinstance(item, (PlainText, RenderedText, TokenIds)):
        return item
    if isinstance(item, str):
        return PlainText(item)
    if isinstance(item, Mapping):
        return _normalise_dict(item)
    return TokenIds(_as_ids(item))


def _normalise_dict(item: Mapping[str, Any]) -> Prompt:
    unknown = sorted(map(str, item.keys() - _KEYS))
    if unknown:
        raise PromptTypeError(
            f"A prompt dict has the unknown keys {', '.join(unknown)}; it takes "
            '"prompt", "prompt_token_ids" and "cache_salt".'
        )
    for key in _MEDIA:
        if not is_empty(item.get(key)):
            raise PromptTypeError(
                f'A prompt dict has "{key}", and no backend takes more than text: '
                "leave it out, or pass None."
            )
    salt = item.get("cache_salt")
    if salt is not None and not (isinstance(salt, str) and salt):
        raise PromptTypeError(
            f'"cache_salt" must be a text that is not empty, got {salt!r}.'
        )
    text = item.get("prompt")
    ids = item.get("prompt_token_ids")
    if text is not None and not isinstance(text, str):
        raise PromptTypeError(
            f'"prompt" must be a text, got {type(text).__name__}. Token ids go under '
            '"prompt_token_ids".'
        )
    if ids is not None:
        return TokenIds(_as_ids(ids), text, cache_salt=salt)
    if text is None:
        raise PromptTypeError(
            'A prompt dict needs "prompt" or "prompt_token_ids", got neither.'
        )
    return PlainText(text, cache_salt=salt)


def is_empty(value: Any) -> bool:
    """Whether an optional dict is absent or empty; a value of any type is allowed."""
    return value is None or (isinstance(value, Mapping) and not value)


def _as_ids(item: Any) -> Sequence[Any]:
    if is_container(item):
        if getattr(item, "ndim", 1) != 1:
            raise InvalidPromptError(
                f"An array of token ids must have one dimension, got {item.ndim}. "
                "Pass one array a prompt, without its padding."
            )
        return as_list(item)
    if _is_list(item):
        return item
    raise _wrong_form(item)


def _wrong_form(item: Any) -> PromptTypeError:
    return PromptTypeError(f"A prompt must be {_FORMS}; got {type(item).__name__}.")


def _is_list(item: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(item, Sequence) and not isinstance(item, (str, bytes, bytearray))


def _is_integer(item: Any) -> bool:
    # Arrays have __index__ too; a number of numpy has no dimension.
    return hasattr(item, "__index__") and getattr(item, "ndim", 0) == 0


def prepare(
    prompt: Prompt,
    tokenizer: Tokenizer,
    limits: EngineLimits,
    params: SamplingParams,
    *,
    strict_length: bool = False,
    positions: Callable[[], int | None] = lambda: None,
    max_tokens: int | None = None,
) -> PreparedPrompt:
    """Tokenise a prompt, check it, and fit its length into the context.

    Args:
        prompt: From `normalise`, or a rendered conversation.
        tokenizer: Tokenizer of the model.
        limits: Limits of the engine.
        params: Parameters of this prompt.
        strict_length: Refuse a `max_tokens` that does not fit, instead of lowering it.
        positions: Returns the context that the model was made for, for messages.
        max_tokens: Limit of params that set none; `None` for what the context holds.

    Raises:
        InvalidPromptError: The prompt is empty, not valid Unicode, or has ids outside
            the vocabulary.
        PromptTooLongError: The prompt leaves no room for a single new token.
        InvalidParameterError: A length or an id in *params* is impossible for this
            engine.
    """
    _check_token_ids(params, limits.vocab_size)
    _check_spaces(params, tokenizer)
    if isinstance(prompt, TokenIds):
        ids = prompt.token_ids
    else:
        ids = tokenise(prompt, tokenizer)
    ids = checked_ids(ids, limits.vocab_size)
    # An empty text may still become a BOS token, which a caller must pass as an id.
    if not ids or prompt.text == "":
        raise InvalidPromptError(
            "The prompt is empty, and a decoder prompt cannot be empty. Pass a text or "
            "at least one token id; to begin with nothing, pass the id of the "
            "begin-of-text token."
        )
    kept = _truncate(ids, params.truncate_prompt_tokens, limits.longest_prompt)
    if len(kept) > limits.longest_prompt:
        raise PromptTooLongError(
            prompt_tokens=len(kept),
            max_prompt_tokens=limits.longest_prompt,
            max_model_len=limits.max_model_len,
            model_positions=positions(),
        )
    room = limits.max_model_len - len(kept)
    asked = params.max_tokens or room
    if max_tokens is not None and not params.sets_max_tokens:
        asked = max(max_tokens, params.min_tokens)
    if asked > room and strict_length:
        raise _no_room("max_tokens", asked, len(kept), limits, positions())
    # As in vLLM, a `max_tokens` that is fitted takes `min_tokens` with it.
    if params.min_tokens > asked:
        raise _no_room("min_tokens", params.min_tokens, len(kept), limits, positions())
    return PreparedPrompt(
        text=prompt.text,
        token_ids=tuple(kept),
        num_truncated=len(ids) - len(kept),
        max_new_tokens=min(asked, room),
        fitted=asked > room,
    )


def _no_room(
    parameter: str,
    value: int,
    prompt_tokens: int,
    limits: EngineLimits,
    positions: int | None,
) -> InvalidParameterError:
    context = limits.max_model_len
    fit = "pass strict_length=False, " if parameter == "max_tokens" else ""
    return InvalidParameterError(
        f"{parameter}={value} does not fit: this model's maximum context length is "
        f"{context} tokens and the prompt has {prompt_tokens}, which leaves "
        f"{context - prompt_tokens}. Lower {parameter}, shorten the prompt, {fit}or "
        f"{PromptTooLongError.longer_context(context, positions)}.",
        parameter=parameter,
        value=value,
    )


def tokenise(prompt: PlainText | RenderedText, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a text.

    Raises:
        InvalidPromptError: It is not valid Unicode, or the tokenizer fails on it.
    """
    try:
        prompt.text.encode()
    except UnicodeEncodeError as error:
        raise InvalidPromptError(
            "The prompt is not valid Unicode: half a surrogate pair at character "
            f"{error.start}. Decode the text with its right encoding."
        ) from error
    try:
        with panics_as_errors():
            return tokenizer.encode(
                prompt.text, add_special_tokens=isinstance(prompt, PlainText)
            )
    except Exception as error:  # the libraries raise bare ones
        raise InvalidPromptError(
            f"The tokenizer cannot encode the prompt: {type(error).__name__}: {error}"
        ) from error


def _truncate(ids: Sequence[int], keep: int | None, longest: int) -> Sequence[int]:
    """Return the last *keep* ids: all for `None`, *longest* for -1."""
    if keep is None:
        return ids
    return ids[-(longest if keep == -1 else keep) :]


def checked_ids(token_ids: Sequence[Any], vocab_size: int) -> Sequence[int]:
    """Return ids as integers of the vocabulary, or raise for the first that is not."""
    plain = set(map(type, token_ids)) <= {int}
    if plain and (
        not token_ids or (min(token_ids) >= 0 and max(token_ids) < vocab_size)
    ):
        return token_ids
    return [
        _checked_id(token_id, position, vocab_size)
        for position, token_id in enumerate(token_ids)
    ]


def _checked_id(token_id: Any, position: int, vocab_size: int) -> int:
    if isinstance(token_id, bool) or not _is_integer(token_id):
        raise PromptTypeError(
            f"A prompt of token ids must hold integers only; at position {position} it "
            f"has {token_id!r}, a {type(token_id).__name__}."
        )
    number = operator.index(token_id)
    if not 0 <= number < vocab_size:
        raise InvalidPromptError(
            f"Token id {number} at position {position} is out of vocabulary: the model "
            f"has the ids 0 to {vocab_size - 1}. Tokenise with the model's own "
            "tokenizer."
        )
    return number


def _check_token_ids(params: SamplingParams, vocab_size: int) -> None:
    for field, token_ids in (
        ("stop_token_ids", params.stop_token_ids),
        ("logit_bias", params.logit_bias),
        ("allowed_token_ids", params.allowed_token_ids or ()),
        ("logprob_token_ids", params.logprob_token_ids or ()),
    ):
        if outside := _outside(token_ids, vocab_size):
            named = ", ".join(map(str, outside[:_NAMED]))
            if more := len(outside[_NAMED:]):
                named += f" and {more} more"
            raise InvalidParameterError(
                f"{field} has {named}, out of vocabulary: "
                f"the model has the ids 0 to {vocab_size - 1}. Remove them.",
                parameter=field,
                value=getattr(params, field),
            )


def _check_spaces(params: SamplingParams, tokenizer: Tokenizer) -> None:
    if not params.spaces_between_special_tokens and tokenizer.pieces is None:
        raise UnsupportedParameterError(
            "spaces_between_special_tokens=False cannot be honoured: this tokenizer "
            "joins tokens in a way of its own, which may put spaces between them. "
            "Leave the field at True.",
            parameter="spaces_between_special_tokens",
            value=False,
        )


def tokenise_bad_words(
    words: Iterable[str], tokenizer: Tokenizer, vocab_size: int
) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of *words*, with and without a space before them.

    vLLM drops the form with a space where the two differ in their number of tokens.
    A form that the tokenizer has no tokens for never appears, and has no ids.

    Raises:
        InvalidParameterError: From a tokenizer without pieces, a word has no ids, or
            ids outside the vocabulary.

    References:
        ``SamplingParams.update_from_tokenizer``, vLLM 0.32.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for form in (word.lstrip(), f" {word.lstrip()}"):
            ids = _spell(form, tokenizer, vocab_size)
            if ids is None:
                continue
            if not ids or _outside(ids, vocab_size):
                raise InvalidParameterError(
                    f"bad_words has {word!r}, which cannot be banned: its token ids "
                    f"are {ids} and the model has 0 to {vocab_size - 1}.",
                    parameter="bad_words",
                    value=tuple(words),
                )
            found[tuple(ids)] = None
    return tuple(found)


def _spell(text: str, tokenizer: Tokenizer, vocab_size: int) -> list[int] | None:
    """Return the usual ids of a text inside another; `None` if there are none."""
    if tokenizer.spelling is None:
        return tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.spelling.ids(text, below=vocab_size, special=True)


def _outside(token_ids: Iterable[int], vocab_size: int) -> list[int]:
    return [token_id for token_id in token_ids if token_id >= vocab_size]
