# SPDX-License-Identifier: Apache-2.0

"""Grammars of `StructuredOutputs`: the tokens that may come next, from llguidance.

The thread that submits a request compiles its grammar, so a wrong one is refused before
an engine sees the request. The driver's thread only asks for masks.

Every grammar is bounded: its text and depth are checked first, llguidance limits its
work when it compiles and in each step, the caller waits a limited time, and the cache
has a size.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..distributions import install
from ..errors import InvalidParameterError, UnsupportedParameterError
from .bounded import call_within
from .gbnf import is_gbnf
from .notation import StructureNotation, structure_notation

if TYPE_CHECKING:
    from ..structured_outputs import StructuredOutputs
    from .spelling import Spelling
    from .tokenizer import Tokenizer

FIELD = "structured_outputs"

MAX_CHARS = 128 * 1024
"""Longest schema or grammar."""
MAX_CHOICE_CHARS = 2 * 1024 * 1024
"""Longest choices together."""
MAX_OPTION_CHARS = 16 * 1024
"""Longest of several choices."""
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
LOOK_AHEAD = 1024
"""Characters of a text that must follow which a step spells; it uses the first id."""
CACHED = 128
"""Compiled grammars in the cache, the last used ones."""

_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,  # some 15 ms
    "step_max_items": 50_000,
    "max_items_in_row": 50_000,  # alternatives of a rule; the step has its own limit
    "max_lexer_states": 50_000,  # 1 to 2 kB each
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}

_FULL_LEXER = "lexer error: too many"
"""In messages of llguidance about the states and expressions of a whole lexer."""
_NO_TEXT = "NoExtension"
"""Its reason for a grammar that no text satisfies."""


class GrammarState:
    """State of one completion in its grammar.

    All states of a grammar share the lexer of llguidance, which has a limit for the
    states that it makes over its whole life. At that limit a state moves on to a new
    one, so a grammar may serve any number of requests.

    Attributes:
        error: Reason why no token can follow; empty as long as one can.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._matcher, self._lexer = grammar.fresh_matcher()
        self._token_ids: list[int] = []
        self.error = ""

    def allowed(self) -> bytes:
        """Return one bit for each id, the lowest bit of a byte first.

        Allows EOS tokens exactly where the grammar may end, and nothing else where it
        must end. Sets `error` if it fails.
        """
        mask: bytes = self._matcher.compute_bitmask()
        if self._is_worn():
            self._renew()
            mask = self._matcher.compute_bitmask()
        self._look()
        return mask

    def accept(self, token_id: int) -> None:
        """Record a generated token."""
        self._token_ids.append(token_id)
        self._matcher.consume_token(token_id)
        if self._is_worn():
            self._renew()
        self._look()

    def _is_worn(self) -> bool:
        return self._matcher.is_error() and _FULL_LEXER in self._matcher.get_error()

    def _renew(self) -> None:
        self._matcher, self._lexer = self._grammar.fresh_matcher(worn=self._lexer)
        for token_id in self._token_ids:
            self._matcher.consume_token(token_id)

    def _look(self) -> None:
        if self._matcher.is_error():
            self.error = _first_line(self._matcher.get_error())


class Grammar:
    """A compiled grammar. May be used from several threads.

    Args:
        make: Makes a matcher of llguidance, with a lexer of its own.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._matcher = make()
        self._lexer = 0
        self._lock = threading.Lock()

    def start(self) -> GrammarState:
        """Return the state before the first token."""
        return GrammarState(self)

    def fresh_matcher(self, *, worn: int | None = None) -> tuple[Any, int]:
        """Return a matcher before the first token, and the number of its lexer.

        Args:
            worn: Number of a lexer that is at its limit; another one takes its place.
        """
        with self._lock:
            if worn == self._lexer:
                self._matcher = self._make()
                self._lexer += 1
            return self._matcher.deep_copy(), self._lexer


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
        self._vocabulary: _Vocabulary | None = None
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
        grammar = _compile(wanted, vocabulary)
        with self._lock:
            self._cache[wanted] = grammar
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return grammar

    @staticmethod
    def is_installed() -> bool:
        """Return whether llguidance, which compiles, is installed."""
        return find_spec("llguidance") is not None

    def _make_vocabulary(self) -> _Vocabulary:
        if not self.is_installed():
            raise UnsupportedParameterError(
                f"{FIELD} needs llguidance. Install it: {install('structured')}",
                parameter=FIELD,
                value=None,
            )
        if self._tokenizer.pieces is None:
            raise UnsupportedParameterError(
                f"{FIELD} needs the bytes of each token, and those of this tokenizer "
                "depend on their neighbours. Pass tokenizer= with a byte-level or "
                "sentencepiece tokenizer of the model.",
                parameter=FIELD,
                value=None,
            )
        if not self._eos_ids:
            raise UnsupportedParameterError(
                f"{FIELD} needs an EOS token to end the text with, and none of the "
                f"model's is below its {self._vocab_size} ids. Pass tokenizer= with "
                "one that names it.",
                parameter=FIELD,
                value=None,
            )
        return _Vocabulary(self._tokenizer, self._vocab_size, self._eos_ids)


class _Vocabulary:
    """A tokenizer for llguidance.

    Attributes:
        wrapped: The object of llguidance.
        forces: Whether a text that must follow is given as its usual ids. Otherwise
            the model spells it: a tokenizer that lacks some bytes may have no ids for
            the text.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, eos_ids: list[int]
    ) -> None:
        import llguidance

        spelling = tokenizer.spelling
        assert spelling is not None
        self.forces = spelling.complete
        self.wrapped = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(
                _Pieces(tokenizer, spelling, vocab_size, eos_ids)
            ),
            n_vocab=vocab_size,
            eos_token=eos_ids,
        )


class _Pieces:
    """A tokenizer in the form that llguidance wraps."""

    bos_token_id = None

    def __init__(
        self,
        tokenizer: Tokenizer,
        spelling: Spelling,
        vocab_size: int,
        eos_ids: list[int],
    ) -> None:
        assert tokenizer.pieces is not None
        self._spelling = spelling
        self._vocab_size = vocab_size
        self.eos_token_id = eos_ids[0]
        special = tokenizer.special_token_ids | set(eos_ids)
        self.special_token_ids = sorted(i for i in special if i < vocab_size)
        known = min(vocab_size, tokenizer.vocab_size or vocab_size)
        self.tokens = [tokenizer.pieces[token_id] for token_id in range(known)]
        self.tokens += [b""] * (vocab_size - known)  # rows that only pad the matrix

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the ids of a text that must follow."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        ahead = text[:LOOK_AHEAD]
        return self._spelling.ids(ahead, below=self._vocab_size) or []


def _compile(wanted: StructuredOutputs, vocabulary: _Vocabulary) -> Grammar:
    import llguidance

    _check_length(wanted)
    try:
        notation = structure_notation(wanted)
    except ValueError as wrong:
        raise _refused(wanted, str(wrong)) from wrong
    _check_size(wanted, notation)

    def make() -> Any:
        return llguidance.LLMatcher(
            vocabulary.wrapped,
            _grammar_text(notation, forces=vocabulary.forces),
            log_level=0,
            limits=llguidance.LLParserLimits(**_LIMITS),
        )

    def work() -> tuple[Grammar, str]:
        grammar = Grammar(make)
        matcher, _ = grammar.fresh_matcher()
        # The first mask finds grammars that no text satisfies, and those that explode.
        if not matcher.is_error() and not any(matcher.compute_bitmask()):
            return grammar, _NO_TEXT
        return grammar, matcher.get_error() if matcher.is_error() else ""

    try:
        grammar, error = call_within(COMPILE_TIMEOUT_S, work, stack_bytes=STACK_BYTES)
    except TimeoutError:
        raise _refused(
            wanted, f"compiling it takes more than {COMPILE_TIMEOUT_S:g} s"
        ) from None
    except Exception as failure:  # llguidance documents none
        raise _refused(wanted, f"{type(failure).__name__}: {failure}") from failure
    if error:
        raise _refused(wanted, _reason(error))
    return grammar


def _check_length(wanted: StructuredOutputs) -> None:
    most = {"regex": MAX_REGEX_CHARS, "choice": MAX_CHOICE_CHARS}.get(
        wanted.kind, MAX_CHARS
    )
    if len(wanted.source) > most:
        raise _refused(
            wanted, f"it has {len(wanted.source)} characters, {most} are allowed"
        )
    longest = max(map(len, wanted.choice or ("",)))
    if longest > MAX_OPTION_CHARS:
        raise _refused(
            wanted,
            f"an option has {longest} characters, {MAX_OPTION_CHARS} are allowed",
        )
    # The reader of GBNF counts its parentheses itself.
    if wanted.kind == "choice" or (wanted.grammar and is_gbnf(wanted.grammar)):
        return
    depth = _depth(wanted.source)
    if depth > MAX_DEPTH:
        raise _refused(wanted, f"it is {depth} levels deep and {MAX_DEPTH} are allowed")


def _check_size(wanted: StructuredOutputs, notation: StructureNotation) -> None:
    references = 0
    if wanted.kind == "json":
        references = wanted.source.count('"$ref"')
    elif wanted.kind == "grammar" and notation.text == wanted.source:
        # More than there are rules, if colons stand in literals.
        references = notation.text.count(":")
    elif wanted.kind == "grammar":  # converted: a rule a line
        references = notation.text.count("\n") + 1
    if references > MAX_REFERENCES:
        raise _refused(
            wanted,
            f"it has {references} references or rules, {MAX_REFERENCES} are allowed",
        )


def _grammar_text(notation: StructureNotation, *, forces: bool) -> str:
    from llguidance import LLMatcher

    if not forces:
        return LLMatcher.grammar_from_lark(notation.unforced())
    if notation.kind == "regex":
        return LLMatcher.grammar_from_regex(notation.text)
    if notation.kind == "lark":
        return LLMatcher.grammar_from_lark(notation.text)
    return LLMatcher.grammar_from_json_schema(notation.text)


def _refused(wanted: StructuredOutputs, why: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{FIELD}: this {wanted.kind} cannot be used: {why}. Correct or simplify it.",
        parameter=FIELD,
        value=wanted,
    )


def _reason(error: str) -> str:
    """Return why llguidance refuses a structure, in words for its author."""
    if error.startswith(_NO_TEXT):
        return "no text of this tokenizer can satisfy it"
    if "coerce_one_of" in error:  # an option for callers of llguidance
        return (
            "it has a oneOf whose branches are not seen to exclude each other, as "
            "values, types, and objects that require a property with another const do. "
            "Write anyOf, which also allows what fits several branches"
        )
    if unknown := re.match(r"Unimplemented keys: \[(.*?)\]", error):
        return f"the keywords {unknown[1]} of JSON Schema cannot be enforced"
    if "grammar.symbols.len()" in error:
        return "it has more than the 65 000 symbols that llguidance takes"
    return _first_line(error)


def _first_line(error: str) -> str:
    """Return the message of llguidance without the state that it prints below."""
    message = re.split("<state>|<backtrace>", error)[0]
    return " ".join(message.split())[:500].rstrip(".")


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
