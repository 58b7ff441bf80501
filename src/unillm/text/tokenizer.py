# SPDX-License-Identifier: Apache-2.0

"""One narrow interface over every kind of tokenizer.

A wrapper never changes its object: where a caller's tokenizer truncates or pads, the
wrapper encodes with a copy. `loading` reads the files.
"""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from typing_extensions import override

from ..errors import ChatTemplateError, TokenizerError
from .bounded import call_within
from .chat import ContentFormat, Conversation, as_conversation, as_tools, for_template
from .content_format import detect_content_format
from .pieces import Pieces, rust_pieces, sentencepiece_pieces, tekken_pieces
from .sandbox import compile_template
from .spelling import Spelling
from .templates import choose_template, templates_by_name

TEMPLATE_TIMEOUT_S = 10.0
"""Limit for a chat template, which is a program of the checkpoint and may not end."""

_CACHED_FORMATS = 32
"""Templates whose content format is remembered; each call may bring its own."""


class Tokenizer(abc.ABC):
    """Text to ids and back, for one model.

    Attributes:
        wrapped: The object that does the work: the loaded one, or the caller's own.
        files: The files that it comes from; empty for a caller's object.
        chat_templates: Jinja texts by their names; empty for a tokenizer without one.
        eos_token_id: Its own EOS token; `None` if it names none.
        bos_token_id: Its own BOS token; `None` if it names none.
        special_tokens: Further tokens that a template may name, such as ``pad_token``.
        special_token_ids: Ids that `decode` leaves out with *skip_special_tokens*.
        vocab_size: One more than the highest id; `None` if the caller's object has no
            size.
        pieces: The bytes that each id adds to a text; `None` where they depend on its
            neighbours, or are unknown.
    """

    wrapped: Any
    files: tuple[str, ...] = ()
    chat_templates: Mapping[str, str] = MappingProxyType({})
    eos_token_id: int | None = None
    bos_token_id: int | None = None
    special_tokens: Mapping[str, str] = MappingProxyType({})
    special_token_ids: frozenset[int] = frozenset()
    vocab_size: int | None = None
    pieces: Pieces | None = None

    @functools.cached_property
    def spelling(self) -> Spelling | None:
        """Finds the ids of a text inside another one; `None` without `pieces`."""
        if self.pieces is None:
            return None
        return Spelling(
            functools.partial(self.encode, add_special_tokens=False),
            self.pieces,
            special_token_ids=self.special_token_ids,
            vocab_size=self.vocab_size or 0,
        )

    @abc.abstractmethod
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of *text*, never truncated or padded.

        Args:
            text: Special tokens written in it become their ids.
            add_special_tokens: Add the tokens that the model expects around a prompt,
                such as BOS.
        """

    @abc.abstractmethod
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of *token_ids*, with its spaces as they are.

        Ids outside the vocabulary add nothing.
        """

    @abc.abstractmethod
    def id_to_token(self, token_id: int) -> str | None:
        """Return the token as the vocabulary writes it; `None` for an unknown id."""

    def apply_chat_template(
        self,
        messages: Any,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_content_format: ContentFormat | Literal["auto"] = "auto",
        tools: Sequence[Any] | None = None,
        **template_kwargs: Any,
    ) -> str:
        """Render a conversation, in the sandbox of transformers.

        Args:
            messages: A list of ``{"role": …, "content": …}``.
            add_generation_prompt: End where the assistant begins.
            continue_final_message: Leave the last message open instead.
            chat_template: Template text to use instead of the tokenizer's, or the name
                of one of the tokenizer's.
            chat_template_content_format: The form in which the template gets contents:
                "string", "openai" (a list of parts), or "auto" for what it reads.
            tools: Functions or their JSON schemas, for templates that offer tools.
            **template_kwargs: Further variables for the template.

        Raises:
            InvalidPromptError: *messages* are not a conversation of texts.
            ChatTemplateError: The tokenizer has no template, *chat_template* is not
                one, or the template failed or took longer than `TEMPLATE_TIMEOUT_S`.
        """
        conversation = as_conversation(messages)
        template = choose_template(
            self.chat_templates,
            chat_template,
            with_tools=tools is not None,
            files=self.files,
        )
        if continue_final_message and add_generation_prompt:
            raise ChatTemplateError(
                "continue_final_message and add_generation_prompt exclude each other: "
                "one continues the last message, the other begins a new one. Pass "
                "add_generation_prompt=False."
            )
        return self.render_within(
            TEMPLATE_TIMEOUT_S,
            conversation,
            template,
            chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=as_tools(tools),
            **template_kwargs,
        )

    def render_within(
        self,
        seconds: float,
        conversation: Conversation,
        template: str,
        content_format: ContentFormat | Literal["auto"] = "auto",
        /,
        **options: Any,
    ) -> str:
        """Render a conversation with the text of a template, or raise after *seconds*.

        The other arguments and errors are those of `apply_chat_template`.
        """

        def render() -> str:
            form = content_format
            if form == "auto":
                form = self._content_format_of(template)
            return self._render(
                for_template(conversation, template, form),
                chat_template=template,
                **options,
            )

        try:
            return call_within(seconds, render)
        except Exception as error:  # a template is a program: it may raise anything
            raise ChatTemplateError(
                "The chat template refused the conversation: "
                f"{type(error).__name__}: {error}"
            ) from error

    @functools.cached_property
    def _content_format_of(self) -> Callable[[str], ContentFormat]:
        """Return the content format of a template; the last ones are remembered."""

        def detect(template: str) -> ContentFormat:
            return detect_content_format(
                template,
                lambda conversation: self._render(
                    conversation, chat_template=template, add_generation_prompt=True
                ),
            )

        return functools.lru_cache(maxsize=_CACHED_FORMATS)(detect)

    def _render(
        self, conversation: Conversation, *, chat_template: str, **options: Any
    ) -> str:
        ids = {"bos_token": self.bos_token_id, "eos_token": self.eos_token_id}
        special = {
            name: self.id_to_token(token_id)
            for name, token_id in ids.items()
            if token_id is not None
        }
        variables = {**self.special_tokens, **special, **options}
        if not options.get("tools") and not options.get("continue_final_message"):
            variables = {"tools": None, "documents": None, **variables}
            variables.pop("continue_final_message", None)
            template = compile_template(chat_template)
            return template.render(messages=conversation, **variables)
        from transformers.utils.chat_template_utils import render_jinja_template

        # Annotated upstream as a str; it is the texts and, on request, their spans.
        texts_and_spans: Any = render_jinja_template(
            [conversation], chat_template=chat_template, **variables
        )
        return str(texts_and_spans[0][0])


class RustTokenizer(Tokenizer):
    """Wrapper of a `tokenizers.Tokenizer`, which names no BOS and no EOS token.

    Args:
        wrapped: The object.
        files: The files that it comes from.
        chat_templates: Jinja texts by their names.
        special_tokens: Tokens by the names that transformers gives them, such as
            ``eos_token``.
    """

    def __init__(
        self,
        wrapped: Any,
        *,
        files: Sequence[str] = (),
        chat_templates: Mapping[str, str] = MappingProxyType({}),
        special_tokens: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.wrapped = wrapped
        self.files = tuple(files)
        self.chat_templates = chat_templates
        self.special_tokens = special_tokens
        self.bos_token_id = self._id_of(special_tokens.get("bos_token"))
        self.eos_token_id = self._id_of(special_tokens.get("eos_token"))
        self.special_token_ids = frozenset(
            token_id
            for token_id, token in wrapped.get_added_tokens_decoder().items()
            if token.special
        )
        self.vocab_size = _size_of(wrapped.get_vocab(with_added_tokens=True))
        self.pieces = rust_pieces(wrapped)

    def _id_of(self, token: str | None) -> int | None:
        found: int | None = None if token is None else self.wrapped.token_to_id(token)
        return found

    @override
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        encoder = self.wrapped
        # Checked in each call, because a call of transformers may set either for good.
        if encoder.truncation is not None or encoder.padding is not None:
            encoder = self._whole_texts
        ids: list[int] = encoder.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    @functools.cached_property
    def _whole_texts(self) -> Any:
        """Copy that neither truncates nor pads."""
        import tokenizers

        copy = tokenizers.Tokenizer.from_str(self.wrapped.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy

    @override
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return str(
            self.wrapped.decode(
                list(token_ids), skip_special_tokens=skip_special_tokens
            )
        )

    @override
    def id_to_token(self, token_id: int) -> str | None:
        token: str | None = self.wrapped.id_to_token(token_id)
        return token


class TransformersTokenizer(Tokenizer):
    """Wrapper of a tokenizer of transformers.

    Calls the Rust object directly where there is one: the Python code of transformers
    sets truncation and padding on it in every call, which other threads would see.
    """

    def __init__(self, wrapped: Any, *, files: Sequence[str] = ()) -> None:
        self.wrapped = wrapped
        self.files = tuple(files)
        self.eos_token_id = _id_or_none(wrapped.eos_token_id)
        self.bos_token_id = _id_or_none(wrapped.bos_token_id)
        self.special_token_ids = frozenset(wrapped.all_special_ids)
        backend = _plain_backend(wrapped)
        self._rust = None if backend is None else RustTokenizer(backend)
        if self._rust is None:
            self.vocab_size = _size_of(wrapped.get_vocab())
            self.pieces = tekken_pieces(wrapped)
        else:
            self.vocab_size = self._rust.vocab_size
            self.special_token_ids = self._rust.special_token_ids
            self.pieces = self._rust.pieces
        self.chat_templates = templates_by_name(wrapped.chat_template)

    @override
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if self._rust is not None:
            return self._rust.encode(text, add_special_tokens=add_special_tokens)
        return list(self.wrapped.encode(text, add_special_tokens=add_special_tokens))

    @override
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        if self._rust is not None:
            return self._rust.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return str(
            self.wrapped.decode(
                list(token_ids),
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    @override
    def id_to_token(self, token_id: int) -> str | None:
        if self._rust is not None:
            return self._rust.id_to_token(token_id)
        if not 0 <= token_id < (self.vocab_size or 0):
            return None
        token: str | None = self.wrapped.convert_ids_to_tokens(token_id)
        return token

    @override
    def _render(self, conversation: Conversation, **options: Any) -> str:
        return str(
            self.wrapped.apply_chat_template(conversation, tokenize=False, **options)
        )


def _plain_backend(wrapped: Any) -> Any:
    """Return the Rust tokenizer if the class of transformers adds no steps to it."""
    from transformers import PreTrainedTokenizerFast

    own = ("encode", "decode", "_encode_plus", "_decode")
    if isinstance(wrapped, PreTrainedTokenizerFast) and all(
        getattr(type(wrapped), name) is getattr(PreTrainedTokenizerFast, name)
        for name in own
    ):
        return wrapped.backend_tokenizer
    return None


class SentencePieceTokenizer(Tokenizer):
    """Wrapper of a `SentencePieceProcessor`.

    The model names no special tokens for prompts; `encode` adds BOS where the model has
    one, as the tokenizers of Llama, Mistral and Gemma do.
    """

    def __init__(
        self,
        wrapped: Any,
        *,
        files: Sequence[str] = (),
        chat_templates: Mapping[str, str] = MappingProxyType({}),
        special_tokens: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.wrapped = wrapped
        self.files = tuple(files)
        self.chat_templates = chat_templates
        self.special_tokens = special_tokens
        self.eos_token_id = self._special_id("eos_token", wrapped.eos_id())
        self.bos_token_id = self._special_id("bos_token", wrapped.bos_id())
        self.vocab_size: int = wrapped.vocab_size()
        self.special_token_ids = frozenset(
            token_id
            for token_id in range(self.vocab_size)
            if wrapped.is_control(token_id)
        )
        pieces = sentencepiece_pieces(wrapped)
        if pieces is None:
            raise TokenizerError(
                "The sentencepiece model has no piece that shows text "
                f"({self.vocab_size} pieces). It is not a model of a language; "
                "check that it is the right file."
            )
        self.pieces: Pieces = pieces

    def _special_id(self, name: str, own: int) -> int | None:
        """Return the id of a named token; *own*, the model's, for one it lacks."""
        found = self.wrapped.piece_to_id(self.special_tokens.get(name, ""))
        # An unknown text has the id of the unknown token.
        return _id_or_none(own if found == self.wrapped.unk_id() else found)

    @override
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self.wrapped.encode(text)
        if add_special_tokens and self.bos_token_id is not None:
            return [self.bos_token_id, *ids]
        return ids

    @override
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        special = self.special_token_ids
        known = [i for i in token_ids if 0 <= i < self.vocab_size]
        if skip_special_tokens:
            known = [i for i in known if i not in special]
        # The library shows nothing for a control piece; this wrapper shows its name.
        positions = (position for position, i in enumerate(known) if i in special)
        head = next(positions, len(known))
        return str(self.wrapped.decode(known[:head])) + self.pieces.text(known[head:])

    @override
    def id_to_token(self, token_id: int) -> str | None:
        if not 0 <= token_id < self.vocab_size:
            return None
        return str(self.wrapped.id_to_piece(token_id))


class ForeignTokenizer(Tokenizer):
    """Wrapper of any object with ``encode(text)`` and ``decode(ids)``.

    Uses, where the object has them, under the names of transformers: the arguments
    ``add_special_tokens`` and ``skip_special_tokens``; the attributes ``eos_token_id``,
    ``bos_token_id``, ``all_special_ids``, ``vocab_size`` (or ``n_vocab``, or
    ``len()``), ``chat_template``; the method ``convert_ids_to_tokens``.
    """

    def __init__(self, wrapped: Any) -> None:
        missing = [
            name
            for name in ("encode", "decode")
            if not callable(getattr(wrapped, name, None))
        ]
        if missing:
            raise TokenizerError(
                f"A tokenizer needs encode(text) and decode(ids); "
                f"{type(wrapped).__name__} has no {' and no '.join(missing)}. Pass a "
                "path, or a tokenizer of transformers, tokenizers or sentencepiece."
            )
        self.wrapped = wrapped
        self.eos_token_id = _id_or_none(getattr(wrapped, "eos_token_id", None))
        self.bos_token_id = _id_or_none(getattr(wrapped, "bos_token_id", None))
        self.special_token_ids = frozenset(getattr(wrapped, "all_special_ids", ()))
        self.chat_templates = templates_by_name(getattr(wrapped, "chat_template", None))
        sizes = (getattr(wrapped, name, None) for name in ("vocab_size", "n_vocab"))
        self.vocab_size = next((n for n in sizes if isinstance(n, int)), None)
        if self.vocab_size is None and hasattr(wrapped, "__len__"):
            self.vocab_size = len(wrapped)
        self._encode_takes_special = _takes(wrapped.encode, "add_special_tokens")
        self._decode_takes_special = _takes(wrapped.decode, "skip_special_tokens")

    @override
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if self._encode_takes_special:
            return list(
                self.wrapped.encode(text, add_special_tokens=add_special_tokens)
            )
        return list(self.wrapped.encode(text))

    @override
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        if self._decode_takes_special:
            return str(
                self.wrapped.decode(
                    list(token_ids), skip_special_tokens=skip_special_tokens
                )
            )
        if skip_special_tokens:
            token_ids = [i for i in token_ids if i not in self.special_token_ids]
        return str(self.wrapped.decode(list(token_ids)))

    @override
    def id_to_token(self, token_id: int) -> str | None:
        convert = getattr(self.wrapped, "convert_ids_to_tokens", None)
        token = None if convert is None else convert(token_id)
        return token if isinstance(token, str) else None


def _id_or_none(token_id: Any) -> int | None:
    """Return an id; sentencepiece has -1 for a token that is missing."""
    return token_id if isinstance(token_id, int) and token_id >= 0 else None


def _size_of(vocabulary: Mapping[str, int]) -> int:
    """Return one more than the highest id; the ids below it may have gaps."""
    return 1 + max(vocabulary.values(), default=-1)


def _takes(function: Any, keyword: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a function of an extension module, without a signature
        return False
    return keyword in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
