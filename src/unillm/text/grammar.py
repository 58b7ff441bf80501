# SPDX-License-Identifier: Apache-2.0

"""From `StructuredOutputs` to the tokens that may come next, by llguidance.

A grammar is compiled in the thread that submits the request, so what is wrong with it
is told before an engine sees it. The driver's thread only asks for masks.

Everything is bounded: the text of a grammar and its depth are checked first; llguidance
counts its work, when compiling and in each step; the caller waits a limited time; and
the cache of compiled grammars has a size. Nothing here imports torch.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidParameterError, UnsupportedParameterError

if TYPE_CHECKING:
    from ..params import StructuredOutputs
    from .adapters import Tokenizer

FIELD = "structured_outputs"

MAX_CHARS = 128 * 1024
"""Of a schema, a grammar or all choices together."""
MAX_REGEX_CHARS = 16 * 1024
"""Of a regex: the time for a long one grows with the square of its length."""
MAX_REFERENCES = 256
"""``$ref`` of a schema, rules of a grammar. llguidance follows them recursively, and
some thousands in a row would overflow the stack and end the process."""
STACK_BYTES = 64 * 1024 * 1024
"""Of the thread that compiles; only what is used of it takes memory."""
MAX_DEPTH = 64
"""Of brackets within brackets."""
COMPILE_TIMEOUT_S = 10.0
"""How long a caller waits; llguidance itself gives up when its fuel is spent."""
CACHED = 128
"""Compiled grammars that are kept, the last used ones."""

_STACK_LOCK = threading.Lock()

_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,  # some 15 ms
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # 1 to 2 kB each
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}


class GrammarState:
    """How far one completion is in its grammar.

    Attributes:
        error: Why nothing can follow any more; empty while all is well.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self.error = ""

    def allowed(self) -> bytes:
        """Return one bit for each id, the lowest bit of a byte first.

        An end id is allowed exactly where the grammar may end; where it has to, nothing
        else is. Look at `error` afterwards.
        """
        mask: bytes = self._matcher.compute_bitmask()
        self._look()
        return mask

    def accept(self, token_id: int) -> None:
        """Take notice of a new token."""
        self._matcher.consume_token(token_id)
        self._look()

    def _look(self) -> None:
        if self._matcher.is_error():
            self.error = _first_line(self._matcher.get_error())


class Grammar:
    """A compiled grammar. May be used from several threads."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._lock = threading.Lock()

    def start(self) -> GrammarState:
        """Return the state before the first token."""
        with self._lock:
            return GrammarState(self._matcher.deep_copy())


class GrammarCompiler:
    """Compiles for one tokenizer, and keeps what it compiled last.

    Args:
        tokenizer: Its ids must always add the same bytes.
        vocab_size: Of the model: ids are below it.
        eos_ids: All of the model's end ids.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, eos_ids: Iterable[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(i for i in eos_ids if i < vocab_size)
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._cache: OrderedDict[StructuredOutputs, Grammar] = OrderedDict()

    def compile(self, wanted: StructuredOutputs) -> Grammar:
        """Return the grammar of *wanted*.

        Raises:
            InvalidParameterError: It is wrong, impossible, or beyond a limit.
            UnsupportedParameterError: llguidance is not installed, or the tokenizer's
                ids do not always add the same bytes.
        """
        with self._lock:
            grammar = self._cache.get(wanted)
            if grammar is not None:
                self._cache.move_to_end(wanted)
                return grammar
            vocabulary = self._vocabulary = self._vocabulary or self._make_vocabulary()
        grammar = Grammar(_compile(wanted, vocabulary))
        with self._lock:
            self._cache[wanted] = grammar
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return grammar

    def _make_vocabulary(self) -> Any:
        try:
            import llguidance
        except ImportError:
            raise UnsupportedParameterError(
                f'{FIELD} needs llguidance: pip install "unillm[structured]".',
                parameter=FIELD,
                value=None,
            ) from None
        if self._tokenizer.pieces is None:
            raise UnsupportedParameterError(
                f"{FIELD} needs to know the bytes of each token, and what this "
                "tokenizer's tokens add depends on their neighbours. Pass tokenizer= "
                "with a byte-level or sentencepiece tokenizer of the model.",
                parameter=FIELD,
                value=None,
            )
        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(
                _Vocabulary(self._tokenizer, self._vocab_size, self._eos_ids)
            ),
            n_vocab=self._vocab_size,
            eos_token=self._eos_ids,
        )


class _Vocabulary:
    """A tokenizer as llguidance wants to see it."""

    bos_token_id = None

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, eos_ids: list[int]
    ) -> None:
        assert tokenizer.pieces is not None
        self._encode = tokenizer.encode
        self.eos_token_id = eos_ids[0]
        special = tokenizer.special_token_ids | set(eos_ids)
        self.special_token_ids = sorted(i for i in special if i < vocab_size)
        known = min(vocab_size, tokenizer.vocab_size or vocab_size)
        self.tokens = [tokenizer.pieces[token_id] for token_id in range(known)]
        self.tokens += [b""] * (vocab_size - known)  # rows that only pad the matrix

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._encode(text, add_special_tokens=False)


def _compile(wanted: StructuredOutputs, vocabulary: Any) -> Any:
    import llguidance

    text = wanted.source
    most = MAX_REGEX_CHARS if wanted.kind == "regex" else MAX_CHARS
    if len(text) > most:
        raise _refused(wanted, f"it has {len(text)} characters, {most} are allowed")
    references = _references(wanted)
    if references > MAX_REFERENCES:
        raise _refused(
            wanted,
            f"it has {references} references or rules, {MAX_REFERENCES} are allowed",
        )
    depth = _depth(text)
    if wanted.kind != "choice" and depth > MAX_DEPTH:
        raise _refused(wanted, f"it is {depth} levels deep and {MAX_DEPTH} are allowed")

    def work() -> Any:
        matcher = llguidance.LLMatcher(
            vocabulary,
            _grammar_text(wanted),
            log_level=0,
            limits=llguidance.LLParserLimits(**_LIMITS),
        )
        # The first mask shows what no text can satisfy, and what explodes at once.
        if not matcher.is_error() and not any(matcher.compute_bitmask()):
            return matcher, "no text of this tokenizer can satisfy it"
        return matcher, matcher.get_error() if matcher.is_error() else ""

    matcher, error = _within(COMPILE_TIMEOUT_S, work, wanted)
    if error:
        if error.startswith("NoExtension"):
            error = "no text of this tokenizer can satisfy it"
        raise _refused(wanted, _first_line(error))
    return matcher


def _grammar_text(wanted: StructuredOutputs) -> str:
    from llguidance import LLMatcher

    if wanted.kind == "regex":
        return LLMatcher.grammar_from_regex(wanted.source)
    if wanted.kind == "choice":
        options = " | ".join(json.dumps(each) for each in wanted.choice or ())
        return LLMatcher.grammar_from_lark(f"start: {options}")
    if wanted.kind == "grammar":
        return LLMatcher.grammar_from_lark(wanted.source)
    options_of_json: dict[str, Any] = {}
    if wanted.disable_any_whitespace:
        options_of_json = {
            "whitespace_flexible": False,
            "item_separator": ",",
            "key_separator": ":",
        }
    elif wanted.whitespace_pattern is not None:
        options_of_json = {"whitespace_pattern": wanted.whitespace_pattern}
    overrides: Any = options_of_json or None
    return LLMatcher.grammar_from_json_schema(wanted.source, overrides=overrides)


def _within(
    timeout_s: float, work: Callable[[], Any], wanted: StructuredOutputs
) -> Any:
    """Run *work* in a thread of its own and wait for it a limited time."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - whatever llguidance raises
            results.append((None, f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=run, name="unillm-grammar", daemon=True)
    with _STACK_LOCK:
        before = threading.stack_size(STACK_BYTES)  # of all threads started meanwhile
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join(timeout_s)
    if not results:
        raise _refused(wanted, f"compiling it takes more than {timeout_s:g} s")
    return results[0]


def _references(wanted: StructuredOutputs) -> int:
    if wanted.kind == "json":
        return wanted.source.count('"$ref"')
    if wanted.kind == "grammar":
        return wanted.source.count(":")  # more than there are rules, if in literals
    return 0


def _refused(wanted: StructuredOutputs, why: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{FIELD}: this {wanted.kind} cannot be used: {why}. Correct or simplify it.",
        parameter=FIELD,
        value=wanted,
    )


def _first_line(error: str) -> str:
    """Return what llguidance says without the state that it prints below it."""
    return " ".join(error.partition("<state>")[0].split())[:500].rstrip(".")


def _depth(text: str) -> int:
    """Return how deep brackets stand in brackets, those in literals among them."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(0, depth - 1)
    return deepest
