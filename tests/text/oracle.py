# SPDX-License-Identifier: Apache-2.0

"""The text of token ids by decoding all of them anew, to compare the detokenizer with.

No text has U+FFFD at its end: it counts when text follows. `KINDS` has the families of
tokenizers by what else `Detokenizer` may not return yet:

- ``"exact"``: nothing;
- ``"open bytes"``: the U+FFFD that `decode` shows for bytes that begin a character;
- ``"fallback"``: such bytes too; Hugging Face decodes invalid bytes in another way, so
  the oracle reads the pieces itself;
- ``"held back"``: up to three U+FFFD, which may still become a character.
"""

from __future__ import annotations

import functools
import re

KINDS = {
    "gpt2": "open bytes",
    "llama3": "open bytes",
    "llama2": "fallback",
    "sentencepiece": "fallback",
    "word_pieces": "exact",
    "unigram": "exact",
    "word_ends": "exact",
    "letters": "exact",
    "bytes": "held back",
}

FFFD = "\N{REPLACEMENT CHARACTER}"


def id_of(tokenizer, token):
    """Return the id of a token by its text in the vocabulary."""
    return next(
        token_id
        for token_id in range(tokenizer.vocab_size)
        if tokenizer.id_to_token(token_id) == token
    )


def whole_text(kind, tokenizer, ids, skip):
    """Return the text of all ids that no further id can change."""
    if kind == "fallback":
        return fallback_text(tokenizer, ids, skip)
    text = tokenizer.decode(ids, skip_special_tokens=skip)
    if kind == "exact":
        return text
    if kind == "held back":
        kept = text.rstrip(FFFD)
        return kept + FFFD * max(0, len(text) - len(kept) - 3)
    return text[:-1] if ends_in_open_bytes(tokenizer, ids, skip) else text


def added_text(kind, tokenizer, prompt, ids, *, skip=True):
    """Return the text that *ids* add behind *prompt*, if the completion ends there."""
    whole = whole_text(kind, tokenizer, [*prompt, *ids], skip)
    return whole[len(whole_text(kind, tokenizer, prompt, skip)) :].rstrip(FFFD)


def ends_in_open_bytes(tokenizer, ids, skip):
    """Whether the last bytes of byte-level tokens begin a character."""
    shown = [i for i in ids if not (skip and i in tokenizer.special_token_ids)]
    tail = b""
    for i in shown[-4:]:
        token = tokenizer.id_to_token(i)
        plain = all(letter in byte_of_letters() for letter in token)
        tail += bytes(byte_of_letters()[x] for x in token) if plain else token.encode()
    return closed(tail) != tail


@functools.cache
def byte_of_letters():
    """Return the byte of each letter of a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def fallback_text(tokenizer, ids, skip):
    """Return the text of the pieces, with a U+FFFD for each invalid byte."""
    text, run = "", b""
    for i in ids:
        if skip and i in tokenizer.special_token_ids:
            continue
        token = tokenizer.id_to_token(i)
        if byte := re.fullmatch("<0x(..)>", token):
            run += bytes.fromhex(byte[1])
            continue
        unknown = token == "<unk>" and not hasattr(tokenizer.wrapped, "eos_token")
        text += each_byte(run) + (" ⁇ " if unknown else token.replace("▁", " "))
        run = b""
    return text + each_byte(closed(run))


def each_byte(run):
    return re.sub("[\udc80-\udcff]", FFFD, run.decode("utf-8", "surrogateescape"))


def closed(run):
    """Return *run* without the beginning of a character at its end."""
    for length in (1, 2, 3):
        if run[-length:] in beginnings():
            return run[:-length]
    return run


@functools.cache
def beginnings():
    """Return the incomplete bytes of every character."""
    surrogates = range(0xD800, 0xE000)
    codes = (code for code in range(0x80, 0x110000) if code not in surrogates)
    encoded = [chr(code).encode() for code in codes]
    return {data[:length] for data in encoded for length in range(1, len(data))}


def stop_of(texts, stops, min_tokens, keep):
    """Return the number of tokens, the stop string and the text of a completion.

    Args:
        texts: The text after 0, 1, 2, … tokens.
        stops: The stop strings.
        min_tokens: Tokens before which none counts.
        keep: Whether the text includes the stop string.
    """
    for count in range(min_tokens + 1, len(texts)):
        ends = [
            (start + len(stop), rank, start, stop)
            for rank, stop in enumerate(stops)
            for start in range(len(texts[count]) - len(stop) + 1)
            if texts[count].startswith(stop, start)
            and start + len(stop) > len(texts[count - 1])
        ]
        if ends:
            end, _, start, stop = min(ends)
            return count, stop, texts[count][: end if keep else start]
    return len(texts) - 1, None, texts[-1]
