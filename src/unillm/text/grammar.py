# SPDX-License-Identifier: Apache-2.0

"""Grammars of `StructuredOutputs`: the tokens that may come next, from llguidance.

The thread that submits a request compiles its grammar, so a wrong one is refused before
an engine sees the request. The driver's thread only asks for masks.

Every grammar is bounded: its text and depth are checked first, llguidance limits its
work when it compiles and in each step, the caller waits a limited time, and the cache
has a size.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidParameterError, UnsupportedParameterError
from .bounded import call_within

if TYPE_CHECKING:
    from ..params import StructuredOutputs
    from .tokenizer import Tokenizer

FIELD = "structured_outputs"

MAX_CHARS = 128 * 1024
"""Longest schema or grammar, or choices together."""
MAX_REGEX_CHARS = 16 * 1024
"""Longest regex; its time grows with the square of its length."""
MAX_REFERENCES = 256
"""Most ``$ref`` of a schema, or rules of a grammar. llguidance follows them
recursively; some thousands in a row would overflow the stack and end the process."""
STACK_BYTES = 64 * 1024 * 1024
"""Stack of the thread that compiles; only its used part takes memory."""
MAX_DEPTH = 64
"""Deepest nesting of brackets."""
COMPILE_TIMEOUT_S = 10.0
"""Limit for the caller's wait; llguidance itself stops when its fuel is spent."""
CACHED = 128
"""Compiled grammars in the cache, the last used ones."""

_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,  # some 15 ms
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # 1 to 2 kB each
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}


class GrammarState:
    """State of one completion in its grammar.

    Attributes:
        error: Reason why no token can follow; empty as long as one can.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self.error = ""

    def allowed(self) -> bytes:
        """Return one bit for each id, the lowest bit of a byte first.

        Allows EOS tokens exactly where the grammar may end, and nothing else where it
        must end. Sets `error` if it fails.
        """
        mask: bytes = self._matcher.compute_bitmask()
        self._look()
        return mask

    def accept(self, token_id: int) -> None:
        """Record a generated token."""
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
    """Compiles grammars for one tokenizer, and caches the last ones.

    Args:
        tokenizer: One whose ids always add the same bytes.
        vocab_size: Vocabulary of the model; ids are below it.
        eos_ids: All EOS tokens of the model.
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
            InvalidParameterError: The grammar is wrong, impossible, or over a limit.
            UnsupportedParameterError: llguidance is not installed, or the bytes of the
                tokenizer's ids depend on their neighbours.
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
                f"{FIELD} needs the bytes of each token, and those of this tokenizer "
                "depend on their neighbours. Pass tokenizer= with a byte-level or "
                "sentencepiece tokenizer of the model.",
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
    """A tokenizer in the form that llguidance takes."""

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

    def work() -> tuple[Any, str]:
        matcher = llguidance.LLMatcher(
            vocabulary,
            _grammar_text(wanted),
            log_level=0,
            limits=llguidance.LLParserLimits(**_LIMITS),
        )
        # The first mask finds grammars that no text satisfies, and those that explode.
        if not matcher.is_error() and not any(matcher.compute_bitmask()):
            return matcher, "no text of this tokenizer can satisfy it"
        return matcher, matcher.get_error() if matcher.is_error() else ""

    try:
        matcher, error = call_within(COMPILE_TIMEOUT_S, work, stack_bytes=STACK_BYTES)
    except TimeoutError:
        raise _refused(
            wanted, f"compiling it takes more than {COMPILE_TIMEOUT_S:g} s"
        ) from None
    except Exception as failure:  # llguidance documents none
        raise _refused(wanted, f"{type(failure).__name__}: {failure}") from failure
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
    overrides: Any = None
    if wanted.disable_any_whitespace:
        overrides = {
            "whitespace_flexible": False,
            "item_separator": ",",
            "key_separator": ":",
        }
    elif wanted.whitespace_pattern is not None:
        overrides = {"whitespace_pattern": wanted.whitespace_pattern}
    return LLMatcher.grammar_from_json_schema(wanted.source, overrides=overrides)


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
    """Return the message of llguidance without the state that it prints below."""
    return " ".join(error.partition("<state>")[0].split())[:500].rstrip(".")


def _depth(text: str) -> int:
    """Return the nesting depth of brackets, literals included."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(0, depth - 1)
    return deepest
