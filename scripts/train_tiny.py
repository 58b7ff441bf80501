# SPDX-License-Identifier: Apache-2.0

"""Trains ``unillm/tiny``, the model that ships in the wheel, and its held-out set.

One command makes everything, on a CPU and without the network: the tokenizer, the
data, the weights, the configs, the model card and ``tests/data/tiny_heldout.jsonl``::

    python scripts/train_tiny.py

The model answers small tasks that have exactly one right answer, as plain completion
and as chat, and its next token wins by a wide margin, so that engines can be compared
token by token. Data is drawn from a seeded generator; a hash of the question decides
whether it is held out, so a held-out question is never trained on, in no form. The
days and months are the exception: they are a few dozen questions, all of them seen.

The same seed on the same machine gives the same files. The last line printed is one
JSON object: the conditions, the accuracy by task and the margins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[1]
THREADS = 1
HELD_OUT_ONE_IN = 20
HELD_OUT_ITEMS = {"count": 110, "add": 90, "spell": 90, "repeat": 110, "chat": 100}

VOCAB_SIZE = 512
MAX_LEN = 1024
BATCH_SIZE = 96
PADDING_RATIO = 1.35
WARMUP_STEPS = 100
MUON_LR = 0.01
ADAMW_LR = 0.004
TRAINED_MARGIN = 3.0


# --- The tasks ------------------------------------------------------------------------

WORDS = """
able about above across act add after again age ago air all alone along also always
among animal answer apple arm art ask autumn away baby back bad bag ball banana bank
bath beach bean bear beautiful bed bee bell best better big bike bird black blanket
blue boat body bone book border both bottle bottom bowl box boy branch brave bread break
breakfast bridge bright bring brother brown brush bucket build bus busy butter butterfly
button cake call camera candle car card careful carry castle cat catch cause chair
change cheese cherry child choose circle city class clean clear climb clock cloud coat
coffee cold color come cook cool corner cotton count country cow cream cross cup dance
dark daughter day deep desk dinner dog door double down dragon draw dream dress drink
drive drop dry duck each ear early earth east easy eat egg eight elephant empty end
engine enough evening every eye face fall family far farm fast father feather feel field
finger finish fire fish five flag floor flower fly fog food foot forest fork forward
four fox free fresh friend frog front fruit full funny game garden gate gentle gift girl
give glass glove goat gold good grass gray great green ground group grow guitar hair
half hammer hand happy hard hat head hear heart heavy hello help hen here high hill hold
home honey hope horse hot hour house hundred hungry ice idea inside iron island jacket
jam job juice jump keep kettle key kind king kitchen kite knee knife know ladder lake
lamp language large last late laugh leaf learn left leg lemon letter library light lion
listen little long look loud love lunch machine make mango many map market match meal
meat melon memory middle milk mind mirror money monkey moon morning mother mountain
mouse mouth move music nail name narrow near neck need nest never new night nine north
nose number ocean office often old olive one onion open orange other oven over owl page
paint paper park party path peace peach pear pen pencil people pepper phone piano
picture pig pillow pink place plane plant plate play please pocket point potato proud
purple queen question quick quiet rabbit rain read ready red rest rice right ring river
road robot rock roof room root rope round run sad salt same sand school scissors sea
season second seed seven shadow shape sharp sheep shell ship shirt shoe shop short
shoulder silver simple sing sister six skirt sky sleep slow small smile smooth snake
snow soap sock soft some song soup south spider spoon spring square stairs star start
station stone stop store storm story street strong sugar summer sun sweet swim table
tail talk tall tea teacher ten thank think three tiger time tiny today together tomato
tomorrow tooth top towel town toy train travel tree triangle true turtle two umbrella
under valley vegetable very village violin visit voice wait walk wall warm wash watch
water weather week west whale wheel white wide wild wind window winter wise wolf woman
wood word work world write yellow yes yesterday young zebra zero
""".split()

FOREIGN_WORDS = """
café crème élève naïve garçon señor mañana jalapeño über grün schön Straße süß Zürich
Österreich Ångström smørrebrød piñata façade déjà château coração ação łódź żółty česky
日本 東京 京都 猫 犬 水 火 山 中国 你好 世界 ありがとう こんにちは さくら 한국 안녕
привет мир да γειά κόσμε שלום سلام नमस्ते 🙂 🚀 🎉 🐱 👍 🌍 🍎 🔥 ✨ € £ ½ °
""".split()
FOREIGN_LETTERS = sorted({c for word in FOREIGN_WORDS for c in word if ord(c) > 127})

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October
November December""".split()
RINGS = {"day": DAYS, "month": MONTHS}

SYSTEM_MESSAGE = "You are a helpful assistant."
OTHER_SYSTEM_MESSAGES = (
    "You are a friendly robot.",
    "Answer with one line of text.",
    "Be kind, and keep your answers short.",
)


class Item(NamedTuple):
    """One question. `key` is what it asks, whatever the wording or the order."""

    task: str
    prompt: str
    answer: str
    key: str

    @property
    def held_out(self) -> bool:
        """Whether this question is kept from training."""
        if self.task == "ring":
            return False
        digest = hashlib.blake2b(f"{self.task} {self.key}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


class Conversation(NamedTuple):
    """A chat: every turn is an item, asked by the user and answered."""

    system: str | None
    turns: tuple[Item, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages up to the last question, which is still unanswered."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.prompt})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages[:-1]


def count(rng: random.Random) -> Item:
    """Counts up or down between two numbers below 100, in at most 20 numbers."""
    length = rng.randint(1, 20) if rng.random() < 0.3 else rng.randint(1, 10)
    low = rng.randint(0, 100 - length)
    first, last = low, low + length - 1
    numbers = list(range(first, last + 1))
    if rng.random() < 0.5:
        first, last = last, first
        numbers.reverse()
    answer = " ".join(map(str, numbers))
    return Item("count", f"Count from {first} to {last}:", answer, f"{first} {last}")


def add(rng: random.Random) -> Item:
    """Adds two numbers below 50; a + b and b + a are the same question."""
    a, b = rng.randint(0, 49), rng.randint(0, 49)
    return Item("add", f"Add {a} and {b}:", str(a + b), f"{min(a, b)} {max(a, b)}")


def spell(rng: random.Random) -> Item:
    """Spells a word of the list or a made-up one."""
    word = rng.choice(WORDS) if rng.random() < 0.4 else made_up_word(rng)
    return Item("spell", f"Spell the word {word}:", " ".join(word), word)


def repeat(rng: random.Random) -> Item:
    """Repeats a few words, now and then many, in any script."""
    length = rng.randint(1, 8) if rng.random() < 0.9 else rng.randint(9, 24)
    words: dict[str, None] = {}  # distinct, or the place to go on from is ambiguous
    while len(words) < length:
        words.setdefault(any_word(rng))
    text = " ".join(words)
    return Item("repeat", f"Repeat: {text}:", text, text)


def ring(rng: random.Random) -> Item:
    """Asks for the neighbours of a day or a month, or for all of them in order."""
    noun = rng.choice(sorted(RINGS))
    names = RINGS[noun]
    at = rng.randrange(len(names))
    kind = rng.choice(("after", "before", "list"))
    if kind == "list":
        prompt = f"List the {noun}s from {names[at]}:"
        return Item("ring", prompt, " ".join(names[at:] + names[:at]), prompt)
    prompt = f"Name the {noun} {kind} {names[at]}:"
    step = 1 if kind == "after" else -1
    return Item("ring", prompt, names[(at + step) % len(names)], prompt)


def made_up_word(rng: random.Random) -> str:
    """A word that is in no list: random letters, or the pieces of two words."""
    if rng.random() < 0.5:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return "".join(rng.sample(letters, rng.randint(2, 9)))
    first, second = rng.choice(WORDS), rng.choice(WORDS)
    return first[: rng.randint(1, 5)] + second[-rng.randint(1, 5) :]


def any_word(rng: random.Random) -> str:
    """A word to repeat: mostly English, with some of everything else."""
    kind = rng.random()
    if kind < 0.65:
        word = rng.choice(WORDS)
    elif kind < 0.77:
        word = made_up_word(rng)
    elif kind < 0.83:
        word = str(rng.randint(0, 999))
    elif kind < 0.88:
        word = rng.choice(DAYS + MONTHS)
    elif kind < 0.97:
        word = rng.choice(FOREIGN_WORDS)
    else:
        word = "".join(rng.choice(FOREIGN_LETTERS) for _ in range(rng.randint(1, 3)))
    if rng.random() < 0.04:
        word = word.capitalize()
    return word + rng.choice(",.!?") if rng.random() < 0.03 else word


TASKS: dict[str, Callable[[random.Random], Item]] = {
    "count": count,
    "add": add,
    "spell": spell,
    "repeat": repeat,
    "ring": ring,
}
TASK_WEIGHTS = {"count": 20, "add": 14, "spell": 16, "repeat": 45, "ring": 5}


class Stage(NamedTuple):
    """A part of the training, with a learning rate and a mix of tasks of its own."""

    steps: int
    rate: float
    """Share of the full learning rate, at its peak."""
    margin: float
    """By which the right token has to win at the start; `TRAINED_MARGIN` at the end."""
    weights: dict[str, int]


STAGES = (
    # Copying is what takes longest to learn, and the other tasks need it too.
    Stage(steps=1800, rate=1.0, margin=0.0, weights=TASK_WEIGHTS),
    Stage(
        steps=600,
        rate=0.3,
        margin=TRAINED_MARGIN,
        weights={"count": 38, "add": 34, "spell": 8, "repeat": 15, "ring": 5},
    ),
)


def draw_item(
    rng: random.Random,
    *,
    held_out: bool,
    tasks: tuple[str, ...] = tuple(TASKS),
    weights: dict[str, int] = TASK_WEIGHTS,
) -> Item:
    """One item from one side of the split."""
    task = rng.choices(tasks, [weights[name] for name in tasks])[0]
    while True:
        item = TASKS[task](rng)
        if item.held_out == held_out:
            return item


def draw_conversation(
    rng: random.Random, *, held_out: bool, weights: dict[str, int] = TASK_WEIGHTS
) -> Conversation:
    """One to three turns. When held out, the last one is, and all but rings are."""
    system = None
    if rng.random() < 0.4:
        others = rng.choice(OTHER_SYSTEM_MESSAGES)
        system = SYSTEM_MESSAGE if rng.random() < 0.7 else others
    turns = [
        draw_item(rng, held_out=held_out and task != "ring", tasks=(task,))
        for task in rng.choices(
            list(TASKS),
            [weights[name] for name in TASKS],
            k=rng.choice((0, 0, 1, 2)),
        )
    ]
    last_tasks = tuple(name for name in TASKS if name != "ring" or not held_out)
    last = draw_item(rng, held_out=held_out, tasks=last_tasks, weights=weights)
    return Conversation(system, (*turns, last))


def draw_held_out(seed: int) -> list[Item | Conversation]:
    """The held-out set: distinct questions, none of them in the training data."""
    rng = random.Random(f"held out {seed}")
    chosen: dict[str, Item | Conversation] = {}
    for task, number in HELD_OUT_ITEMS.items():
        goal = len(chosen) + number
        while len(chosen) < goal:
            if task == "chat":
                example = draw_conversation(rng, held_out=True)
                chosen.setdefault(json.dumps(example.messages), example)
            else:
                example = draw_item(rng, held_out=True, tasks=(task,))
                chosen.setdefault(example.prompt, example)
    return list(chosen.values())


def seen_rings() -> list[Item]:
    """Every question about days and months; the model was trained on all of them."""
    rng = random.Random(0)
    return list({(item := ring(rng)).key: item for _ in range(5000)}.values())


# --- The tokenizer --------------------------------------------------------------------

BOS = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
PAD = "<|finetune_right_pad_id|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
EOM = "<|eom_id|>"
EOT = "<|eot_id|>"
SPECIAL_TOKENS = (BOS, END_OF_TEXT, PAD, START_HEADER, END_HEADER, EOM, EOT)

# Llama 3's pattern, but a token is one digit rather than up to three, and a word is
# split from the space before it: then it has the same tokens wherever it stands, which
# makes copying it much easier to learn.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def train_tokenizer(seed: int) -> Tokenizer:
    """A byte-level BPE: 256 bytes, merges learned from ASCII text, special tokens.

    Characters outside ASCII get no merges and therefore always take several tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_corpus(seed), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS}:1 $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


def tokenizer_corpus(seed: int) -> Iterator[str]:
    """ASCII text as the model will see it, the messages of chats one by one."""
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(20_000):
        turns = draw_conversation(rng, held_out=False).turns
        texts = ["system\n\n", "user\n\n", "assistant\n\n", SYSTEM_MESSAGE]
        texts += [text for turn in turns for text in (turn.prompt, turn.answer)]
        yield from (text for text in texts if text.isascii())


# --- Examples as token ids ------------------------------------------------------------


@dataclass
class Encoded:
    """Token ids of an example, and which of them the model has to produce."""

    ids: list[int]
    is_answer: list[bool]

    def extend(self, ids: list[int], *, is_answer: bool = False) -> None:
        """Appends a piece, all of it given or all of it to be produced."""
        self.ids += ids
        self.is_answer += [is_answer] * len(ids)


class Encoder:
    """Examples to token ids, question and answer apart, as they are at inference."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {name: tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}

    def text(self, text: str) -> list[int]:
        """Ids of `text` without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, example: Item | Conversation) -> Encoded:
        """Question, answer and the EOS that belongs to the form."""
        encoded = Encoded([], [])
        encoded.extend([self._special[BOS]])
        if isinstance(example, Item):
            encoded.extend(self.text(example.prompt))
            ids = [*self.text(example.answer), self._special[END_OF_TEXT]]
            encoded.extend(ids, is_answer=True)
            return encoded
        if example.system:
            encoded.extend(self._header("system"))
            encoded.extend([*self.text(example.system), self._special[EOT]])
        for turn in example.turns:
            encoded.extend(self._header("user"))
            encoded.extend([*self.text(turn.prompt), self._special[EOT]])
            encoded.extend(self._header("assistant"))
            ids = [*self.text(turn.answer), self._special[EOT]]
            encoded.extend(ids, is_answer=True)
        return encoded

    def _header(self, role: str) -> list[int]:
        start, end = self._special[START_HEADER], self._special[END_HEADER]
        return [start, *self.text(role), end, *self.text("\n\n")]


# --- The model and its training -------------------------------------------------------


def new_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A Llama with random weights; seed torch before."""
    eos = [tokenizer.token_to_id(name) for name in (END_OF_TEXT, EOM, EOT)]
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LEN,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=eos,
        pad_token_id=tokenizer.token_to_id(PAD),
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, encoder: Encoder, *, seed: int) -> None:
    """Trains `model` in place, on data drawn as it goes."""
    for number, stage in enumerate(STAGES):
        train_stage(model, encoder, stage, random.Random(f"train {seed + number}"))


def train_stage(
    model: LlamaForCausalLM, encoder: Encoder, stage: Stage, rng: random.Random
) -> None:
    """Goes through one stage, with optimizers of its own."""
    steps = stage.steps
    optimizers = make_optimizers(model)
    base_lrs = [[group["lr"] for group in o.param_groups] for o in optimizers]
    started, answer_loss = time.perf_counter(), 0.0
    model.train()
    for step in range(1, steps + 1):
        scale = stage.rate * learning_rate_scale(step, steps)
        for optimizer, lrs in zip(optimizers, base_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * scale
        batch = draw_batch(rng, encoder, stage.weights)
        handicap = stage.margin + (TRAINED_MARGIN - stage.margin) * step / steps
        loss = accumulate_gradients(model, batch, handicap=handicap)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        answer_loss = loss if step == 1 else 0.98 * answer_loss + 0.02 * loss
        if step % 100 == 0 or step == steps:
            elapsed = time.perf_counter() - started
            print(
                f"step {step:5d}  loss {answer_loss:.4f}  {elapsed:5.0f} s", flush=True
            )
    model.eval()


def draw_batch(
    rng: random.Random, encoder: Encoder, weights: dict[str, int]
) -> list[Encoded]:
    """The next training examples: as many chats as plain completions."""
    draws = [rng.choice((draw_conversation, draw_item)) for _ in range(BATCH_SIZE)]
    return [
        encoder.encode(draw(rng, held_out=False, weights=weights)) for draw in draws
    ]


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "proj" in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "proj" not in n]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=ADAMW_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_scale(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    if step <= WARMUP_STEPS:
        return step / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.5 * (1 + math.cos(math.pi * done))


def accumulate_gradients(
    model: LlamaForCausalLM, batch: list[Encoded], *, handicap: float
) -> float:
    """Adds the gradient of the batch's answer loss; returns that loss.

    The right token has to win with its logit lowered by `handicap`: that widens its
    margin. An example of n answer tokens weighs as much as the square root of n, so
    that long answers do not drown short ones.
    """
    total_weight = sum(math.sqrt(sum(encoded.is_answer)) for encoded in batch)
    total = 0.0
    for group in groups_of_similar_length(batch):
        logits, targets = answer_logits(model, group)
        lengths = torch.tensor([sum(encoded.is_answer) for encoded in group])
        weights = lengths.rsqrt().repeat_interleave(lengths) / total_weight
        handicaps = torch.zeros_like(logits)
        handicaps.scatter_(1, targets[:, None], handicap)
        losses = cross_entropy(logits - handicaps, targets, reduction="none")
        loss = (losses * weights).sum()
        loss.backward()
        total += loss.item()
    return total


def groups_of_similar_length(batch: list[Encoded]) -> Iterator[list[Encoded]]:
    """The examples in groups whose longest is little longer than its shortest."""
    batch = sorted(batch, key=lambda encoded: len(encoded.ids))
    group = batch[:1]
    for encoded in batch[1:]:
        if len(encoded.ids) > PADDING_RATIO * len(group[0].ids):
            yield group
            group = []
        group.append(encoded)
    yield group


def answer_logits(
    model: LlamaForCausalLM, batch: list[Encoded]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and ids of all answer tokens: ``(answer tokens, vocabulary)``, ``(n,)``.

    Rows are padded on the right, where causal attention never looks.
    """
    longest = max(len(encoded.ids) for encoded in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    is_answer = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded.ids)] = torch.tensor(encoded.ids)
        is_answer[row, : len(encoded.ids)] = torch.tensor(encoded.is_answer)
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[is_answer[:, 1:]])
    return logits.float(), ids[:, 1:][is_answer[:, 1:]]


# --- Evaluation -----------------------------------------------------------------------


@dataclass
class Answer:
    """One example's greedy completion, with the margin of each token."""

    right: bool
    token_ids: list[int]
    margins: list[float]


@torch.inference_mode()
def answer_greedily(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Item | Conversation],
) -> list[Answer]:
    """Answers each example alone, through `generate`, as a user would get it."""
    answers = []
    for example in examples:
        inputs, expected, eos = question(tokenizer, example)
        output = model.generate(
            **inputs, output_logits=True, return_dict_in_generate=True
        )
        token_ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        text = tokenizer.decode(token_ids[:-1])
        right = text == expected and token_ids[-1] == eos
        best, second = torch.cat(output.logits).float().topk(2).values.unbind(-1)
        answers.append(Answer(right, token_ids, (best - second).tolist()))
    return answers


def question(
    tokenizer: PreTrainedTokenizerBase, example: Item | Conversation
) -> tuple[dict[str, torch.Tensor], str, int]:
    """The model's inputs, the expected text, and the id that has to end it."""
    if isinstance(example, Item):
        inputs = tokenizer(example.prompt, return_tensors="pt")
        answer, eos = example.answer, END_OF_TEXT
    else:
        inputs = tokenizer.apply_chat_template(
            example.messages,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        answer, eos = example.turns[-1].answer, EOT
    return dict(inputs), answer, tokenizer.convert_tokens_to_ids(eos)


def task_name(example: Item | Conversation) -> str:
    """The row of the report that the example counts in."""
    if isinstance(example, Item):
        return example.task
    return f"chat-{example.turns[-1].task}"


def evaluate(folder: Path, held_out: list[Item | Conversation]) -> dict[str, Any]:
    """Loads what was written, as a user would, and measures it on the held-out set."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    answers = answer_greedily(model, tokenizer, held_out)
    rings = answer_greedily(model, tokenizer, seen_rings())
    in_bf16 = answer_greedily(model.to(torch.bfloat16), tokenizer, held_out)
    for example, answer in zip(held_out, answers, strict=True):
        if not answer.right:
            wrong = tokenizer.decode(answer.token_ids)
            print(f"wrong: {task_name(example)} {example[-2:]!r} -> {wrong!r}")
    return {
        "accuracy": accuracy_by_task(held_out, answers),
        "seen_rings": f"{sum(answer.right for answer in rings)}/{len(rings)}",
        "margin": margin_statistics(answers),
        "bf16": {
            "different": sum(
                one.token_ids != other.token_ids
                for one, other in zip(answers, in_bf16, strict=True)
            ),
            "right": sum(answer.right for answer in in_bf16),
            "margin": margin_statistics(in_bf16),
        },
    }


def accuracy_by_task(
    examples: list[Item | Conversation], answers: list[Answer]
) -> dict[str, str]:
    """``right/asked`` for each task and for all."""
    rights: dict[str, list[bool]] = {}
    for example, answer in zip(examples, answers, strict=True):
        rights.setdefault(task_name(example), []).append(answer.right)
    table = {name: f"{sum(r)}/{len(r)}" for name, r in sorted(rights.items())}
    table["all"] = f"{sum(answer.right for answer in answers)}/{len(answers)}"
    return table


def margin_statistics(answers: list[Answer]) -> dict[str, float]:
    """How far the best logit was above the second, over all tokens of all answers."""
    margins = torch.tensor([m for answer in answers for m in answer.margins])
    low, median = torch.quantile(margins, torch.tensor([0.01, 0.5])).tolist()
    return {
        "min": round(margins.min().item(), 2),
        "p01": round(low, 2),
        "median": round(median, 2),
        "tokens": len(margins),
    }


# --- Files ----------------------------------------------------------------------------


MODEL_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# unillm/tiny

A Llama of {parameters:,} parameters that ships with `unillm`, so that the first
command works offline, examples run on a laptop and every engine can be held to the same
answers. It knows nothing of the world and little English: anything outside its tasks
gives nonsense.

What it was trained to do, as plain completion (ends with `<|end_of_text|>`) and as
chat, with or without a system message, up to three turns (ends with `<|eot_id|>`):

| prompt | answer |
|---|---|
| `Count from 3 to 9:` (0 to 99, up or down, at most 20 numbers) | `3 4 5 6 7 8 9` |
| `Add 17 and 25:` (0 to 49 each) | `42` |
| `Spell the word apple:` (lower case; made-up words too) | `a p p l e` |
| `Repeat: blue cat über 🙂:` (at most 24 words, all different) | `blue cat über 🙂` |
| `Name the day after Monday:` (or month; or before) | `Tuesday` |
| `List the months from May:` (or days) | `May June July … April` |

Its tokenizer and configs have Llama 3.1's shape: a byte-level BPE of 512 tokens, three
EOS ids, a chat template. Characters outside ASCII take several tokens each. Generation
is greedy by default.

## Measured

Right answers on questions that were not trained on, in float32, greedy, through
`transformers`; `chat-*` are the last turns of chats:

| task | right |
|---|---|
{rows}

The days and months are {seen_rings} right, but all of them were trained on.

Along those answers the best logit is above the second by at least {margin_min}
(1st percentile {margin_p01}, median {margin_median}, {margin_tokens:,} tokens).
In bfloat16 {bf16_different} of the answers differ from float32's.

Made by `python scripts/train_tiny.py` ({steps} steps, seed {seed}), from generated data
only.
"""


CARD_CONDITIONS = ("parameters", "steps", "seed", "seen_rings")


def write_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights, configs and tokenizer, as a checkpoint of any model has them."""
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer_config = {
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOT,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_LEN,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    # Greedy for everyone: transformers reads `do_sample`, vLLM reads `temperature`.
    generation_config = {
        "bos_token_id": model.config.bos_token_id,
        "do_sample": False,
        "eos_token_id": model.config.eos_token_id,
        "max_new_tokens": 256,
        "pad_token_id": model.config.pad_token_id,
        "temperature": 0.0,
    }
    write_json(folder / "generation_config.json", generation_config)


def write_model_card(report: dict[str, Any], folder: Path) -> None:
    """The README of the model: what it is, what it can do, and what was measured."""
    rows = [f"| {task} | {right} |" for task, right in report["accuracy"].items()]
    card = MODEL_CARD.format(
        rows="\n".join(rows),
        **{name: report[name] for name in CARD_CONDITIONS},
        **{f"margin_{name}": value for name, value in report["margin"].items()},
        bf16_different=report["bf16"]["different"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """One JSON file, indented, with a newline at its end."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_held_out(examples: list[Item | Conversation], path: Path) -> None:
    """One JSON object a line: the task, the prompt or the messages, and the answer."""
    lines = []
    for example in examples:
        record: dict[str, object] = {"task": task_name(example)}
        if isinstance(example, Item):
            record |= {"prompt": example.prompt, "answer": example.answer}
        else:
            record |= {
                "messages": example.messages,
                "answer": example.turns[-1].answer,
            }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def move_into_place(source: Path, target: Path) -> None:
    """Renames each file over the old one, so that a reader never sees half of it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        partial = target / f".{path.name}.partial"
        shutil.copyfile(path, partial)
        partial.replace(target / path.name)


# --- The command ----------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Where to write, how long to train, and from which seed."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=ROOT,
        help="root to write src/unillm/model/tiny and tests/data under",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Makes everything, in a temporary folder first."""
    arguments = parse_arguments()
    torch.set_num_threads(THREADS)
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(mode=True)

    tokenizer = train_tokenizer(arguments.seed)
    model = new_model(tokenizer)
    held_out = draw_held_out(arguments.seed)
    started = time.perf_counter()
    train(model, Encoder(tokenizer), seed=arguments.seed)
    train_s = time.perf_counter() - started

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(model, tokenizer, folder)
        report = {
            "steps": sum(stage.steps for stage in STAGES),
            "seed": arguments.seed,
            "parameters": model.num_parameters(),
            "train_s": round(train_s),
            "threads": THREADS,
            "cpu": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            **evaluate(folder, held_out),
        }
        write_model_card(report, folder)
        move_into_place(folder, arguments.output_dir / "src/unillm/model/tiny")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_held_out(held_out, folder / "tiny_heldout.jsonl")
        move_into_place(folder, arguments.output_dir / "tests/data")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
