# SPDX-License-Identifier: Apache-2.0

"""``ModelRunner`` and ``ModelRunnerCpp``: static batches (§5)."""

from __future__ import annotations

import time

import torch

from . import calls, names
from .engine_dir import Plan
from .model import STEP_S, Sequence, load
from .profiles import current
from .samplers import CppSampler, Sampling

_CPP_SAMPLING = {
    "num_beams",
    "top_k",
    "top_p",
    "temperature",
    "random_seed",
    "min_length",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
}


class _Runner:
    dtype = "float32"

    def __init__(self, plan, *, max_input_len, max_seq_len, max_batch_size):
        self._plan = plan
        self.max_input_len = max_input_len
        self.max_seq_len = max_seq_len
        self.max_batch_size = max_batch_size
        self.max_beam_width = 1
        self.vocab_size = plan.config["pretrained_config"]["vocab_size"]
        load(plan.model)

    @property
    def max_sequence_length(self):
        return self.max_seq_len

    def _check_inputs(self, lengths, max_new_tokens):
        """Raise, never truncate (§5)."""
        longest = max(lengths)
        if len(lengths) > self.max_batch_size:
            raise RuntimeError(
                f"Input batch size ({len(lengths)}) exceeds the engine or specified "
                f"limit ({self.max_batch_size})"
            )
        if longest > self.max_input_len:
            raise RuntimeError(
                f"Maximum input length ({longest}) exceeds the engine or specified "
                f"limit ({self.max_input_len})"
            )
        if longest + max_new_tokens > self.max_seq_len:
            raise RuntimeError(
                f"Maximum input length ({longest}) + maximum new tokens "
                f"({max_new_tokens}) exceeds the engine or specified limit "
                f"({self.max_seq_len})"
            )

    def _sequences(self, inputs, options):
        """Return one sequence for each input, with its value of each option."""

        def share(name, index):
            value = options.get(name)
            if isinstance(value, torch.Tensor):
                assert value.shape == (len(inputs),), f"{name} is of another batch"
                return value[index].item()
            return value

        sequences = []
        for index, ids in enumerate(inputs):
            temperature = share("temperature", index)
            top_k = share("top_k", index)
            if temperature == 0.0:  # rewritten by the runner (§5)
                temperature, top_k = 1.0, 1
            top_p = share("top_p", index)
            if top_p == 0.0:
                top_p = None
            bad_words = options.get("bad_words_list") or [[] for _ in inputs]
            sequences.append(
                Sequence(
                    self._plan.model,
                    ids.tolist(),
                    Sampling(
                        greedy=top_k == 1 or (top_k is None and top_p is None),
                        temperature=temperature,
                        top_k=top_k,
                        top_p=top_p,
                        seed=share("random_seed", index),
                        min_tokens=share(
                            "min_tokens" if "min_tokens" in options else "min_length",
                            index,
                        ),
                        bad_words=bad_words[index],
                        repetition_penalty=share("repetition_penalty", index),
                        presence_penalty=share("presence_penalty", index),
                        frequency_penalty=share("frequency_penalty", index),
                    ),
                    end_id=options["end_id"],
                    sampler=CppSampler(),
                )
            )
        return sequences

    def _run(self, inputs, options):
        """Yield cumulative outputs, a step at a time, to the end of the last row."""
        calls.note(
            type(self).__name__ + ".run",
            lengths=[len(ids) for ids in inputs],
            options=dict(options),
        )
        sequences = self._sequences(inputs, options)
        words = options.get("stop_words_list") or [[] for _ in inputs]
        ended = [False] * len(inputs)
        for _ in range(options["max_new_tokens"]):
            time.sleep(STEP_S)
            calls.note(type(self).__name__ + ".step", live=len(inputs) - sum(ended))
            for index, sequence in enumerate(sequences):
                if ended[index]:
                    continue
                token = sequence.step()
                ended[index] = token == options["end_id"] or any(
                    sequence.tokens[-len(word) :] == list(word) for word in words[index]
                )
            yield self._output(inputs, sequences, ended, options)
            if all(ended):
                return

    def _output(self, inputs, sequences, ended, options):
        """Return prompt, new tokens and padding as ``[batch, 1, max_seq_len]``.

        The lengths count stop words, and not the EOS token (§5).
        """
        rows, lengths = [], []
        for ids, sequence, over in zip(inputs, sequences, ended, strict=True):
            row = [*ids.tolist(), *sequence.tokens]
            length = len(row)
            if over and sequence.tokens[-1] == options["end_id"]:
                length -= 1
            lengths.append([length])
            padding = self.max_seq_len - len(row)
            rows.append([row + [options["end_id"]] * padding])
        output_ids = torch.tensor(rows, dtype=torch.int32)
        if not options["return_dict"]:
            return output_ids
        told = {"output_ids": output_ids}
        if options["output_sequence_lengths"]:
            told["sequence_lengths"] = torch.tensor(lengths, dtype=torch.int32)
        return told


def make_runner(name: str):
    """Make a runner's class with the signatures of the current version."""
    base = {"ModelRunner": _ModelRunner, "ModelRunnerCpp": _ModelRunnerCpp}[name]
    opener = names.declared(name, base.from_dir)
    generate = names.declared(name, base.generate)
    if name == "ModelRunnerCpp":
        # The real method names the options that it takes in a tuple.
        code = generate.__code__
        known = tuple(sorted(_accepted()))
        generate.__code__ = code.replace(co_consts=(*code.co_consts, known))
    return type(
        name,
        (base,),
        {
            "from_dir": classmethod(opener),
            "generate": generate,
        },
    )


class _ModelRunner(_Runner):
    """Python session: breaking out of its stream stops the work (§5)."""

    def from_dir(cls, engine_dir, rank=0, **others):
        """Take no batch size or lengths, which are the engine's (§5)."""
        plan = Plan(engine_dir)
        assert rank == 0
        build = plan.build
        calls.note("ModelRunner.from_dir", engine_dir=str(engine_dir))
        return cls(
            plan,
            max_input_len=build["max_input_len"],
            max_seq_len=build["max_seq_len"],
            max_batch_size=build["max_batch_size"],
        )

    def generate(
        self, batch_input_ids, streaming=False, stopping_criteria=None, **kwargs
    ):
        """Ignore unknown names in silence (§5)."""
        assert stopping_criteria is None
        assert kwargs.get("end_id") is not None, "end_id cannot be none"
        assert kwargs.get("pad_id") is not None, "pad_id cannot be none"
        options = {
            "max_new_tokens": 20,
            "top_k": 1,
            "top_p": 0.0,
            "return_dict": False,
            "output_sequence_lengths": False,
            **kwargs,
        }
        self._check_inputs(
            [len(ids) for ids in batch_input_ids], options["max_new_tokens"]
        )
        steps = self._run(batch_input_ids, options)
        if streaming:
            return steps
        return list(steps)[-1]


class _ModelRunnerCpp(_Runner):
    """C++ executor. Breaking out of its stream leaves requests behind (§5)."""

    def from_dir(
        cls,
        engine_dir,
        rank=0,
        max_batch_size=None,
        max_input_len=None,
        max_output_len=None,
        **others,
    ):
        plan = Plan(engine_dir)
        build = plan.build
        assert rank == 0
        assert (max_batch_size or 0) <= build["max_batch_size"]
        longest = (max_input_len or 0) + (max_output_len or 0)
        assert longest <= build["max_seq_len"]
        calls.note("ModelRunnerCpp.from_dir", engine_dir=str(engine_dir))
        return cls(
            plan,
            max_input_len=max_input_len or build["max_input_len"],
            max_seq_len=(
                (max_input_len or build["max_input_len"]) + max_output_len
                if max_output_len
                else build["max_seq_len"]
            ),
            max_batch_size=max_batch_size or build["max_batch_size"],
        )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._left_behind = False

    def generate(
        self,
        batch_input_ids,
        streaming=False,
        stopping_criteria=None,
        max_new_tokens=1,
        end_id=None,
        bad_words_list=None,
        stop_words_list=None,
        return_dict=False,
        output_sequence_lengths=False,
        **kwargs,
    ):
        if stopping_criteria is not None:
            raise RuntimeError("Stopping criteria is not supported in C++ session.")
        if self._left_behind:
            raise KeyError("a response of a request that another call left behind")
        inputs = list(batch_input_ids)
        if stop_words_list is not None:
            # Zipped with the prompts: a shorter list drops the rest (§5).
            inputs = [ids for ids, _ in zip(inputs, stop_words_list, strict=False)]
        options = {
            "max_new_tokens": max_new_tokens,
            "end_id": end_id,
            "stop_words_list": stop_words_list,
            "bad_words_list": bad_words_list,
            "return_dict": return_dict,
            "output_sequence_lengths": output_sequence_lengths,
            **{k: v for k, v in kwargs.items() if k in _accepted()},
        }
        for name, value in options.items():
            assert not isinstance(value, torch.Tensor), f"{name} for a whole batch"
        self._check_inputs([len(ids) for ids in inputs], max_new_tokens)
        steps = self._drained(self._run(inputs, options))
        if streaming:
            return steps
        return list(steps)[-1]

    def _drained(self, steps):
        self._left_behind = True
        yield from steps
        self._left_behind = False


def _accepted() -> set[str]:
    """Return the sampling options of the C++ runner; it ignores others in silence."""
    return _CPP_SAMPLING - (set() if current().runner_seed else {"random_seed"})
