# SPDX-License-Identifier: Apache-2.0

"""Every exception that unillm raises, as one tree.

A class exists where a caller would handle it differently; each one also derives from
the built-in error that a caller would already expect. The facts of a message are
attributes too, so a caller need not parse text. Errors can be pickled, so that worker
processes raise them in their parent::

    UnillmError
    ├── ConfigError (ValueError)            an option makes no sense
    │   └── UnknownArgumentError (TypeError)    a keyword that does not exist
    ├── ModelError                          the model directory
    │   ├── ModelNotFoundError (FileNotFoundError)
    │   ├── ModelLoadError (RuntimeError)       a file of the model cannot be read
    │   │   └── TokenizerError                  no tokenizer, or one that cannot be read
    │   ├── UnsafeModelError (PermissionError)  would run code from the checkpoint
    │   ├── UnsupportedModelError (NotImplementedError)
    │   ├── ChatTemplateError (ValueError)      none, or one that refuses the messages
    │   └── EosNotFoundError (ValueError)       no source names an EOS token
    ├── BackendError
    │   ├── BackendNotFoundError (LookupError)      no plugin has the name
    │   ├── BackendUnavailableError (RuntimeError)  known, but cannot run here
    │   └── PluginError (RuntimeError)              a plugin broke a rule
    ├── RequestError                        one request, refused or failed
    │   ├── RequestRefusedError (ValueError)    for its prompt or its params
    │   │   ├── InvalidPromptError
    │   │   │   ├── PromptTypeError (TypeError)     not a form that a prompt may have
    │   │   │   └── PromptTooLongError
    │   │   └── InvalidParameterError
    │   │       └── UnsupportedParameterError
    │   ├── QueueFullError (RuntimeError)
    │   ├── RequestTimeoutError (TimeoutError)
    │   ├── RequestCancelledError
    │   ├── RequestFailedError (RuntimeError)   the engine failed on this request alone
    │   └── RequestsFailedError                 some of the requests of one call
    │       └── RequestsRefusedError            a RequestRefusedError too
    ├── EngineError
    │   ├── EngineBuildError (RuntimeError)     no engine could be prepared
    │   ├── EngineDeadError (RuntimeError)      the engine stopped answering
    │   └── EngineOutOfMemoryError (MemoryError)
    ├── GeneratorClosedError (RuntimeError)
    ├── GeneratorForkedError (RuntimeError)     it belongs to the parent process
    ├── BatchError                          a job over a file of requests
    │   ├── BatchInputError (ValueError)        its input cannot be used
    │   ├── BatchMismatchError (ValueError)     its output belongs to another job
    │   ├── BatchRunningError (RuntimeError)    another process works at it
    │   └── BatchStorageError (OSError)         a full disk, or a damaged journal
    └── SideFailedError (RuntimeError)      one side of a comparison has no answer
"""

from __future__ import annotations

import difflib
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .outputs import RequestOutput

_SHOWN_NAMES = 50
"""A message lists the known names if there are no more than this."""

_SHOWN_ERRORS = 5
"""A message of `RequestsFailedError` shows at most so many errors."""


class UnillmError(Exception):
    """Root of every error that unillm raises on purpose."""

    __module__ = "unillm.errors"

    def __init__(self, message: str = "") -> None:
        # A log or a terminal cannot write half a surrogate pair.
        text = str(message).encode("utf-8", "backslashreplace").decode()
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message and the attributes, because classes differ in `__init__`.

        An attribute that cannot be pickled becomes its `repr`.
        """
        args = super().__reduce__()[1]
        state = {name: _portable(value) for name, value in vars(self).items()}
        return rebuild, (type(self), args), state


def rebuild(cls: type[UnillmError], args: tuple[Any, ...]) -> UnillmError:
    """Return an error with its message; its attributes follow."""
    # The layout decides which built-in `__new__` may be called.
    kind = OSError if issubclass(cls, OSError) else Exception
    error = kind.__new__(cls, *args)
    kind.__init__(error, *args)
    return error


def _portable(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - objects of callers raise anything
        return repr(value)
    return value


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest of *known*, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


# --------------------------------------------------------------------- configuration


class ConfigError(UnillmError, ValueError):
    """An option has a value that cannot work, alone or with another one."""


class UnknownArgumentError(ConfigError, TypeError):
    """A keyword argument does not exist; the message names the nearest that does.

    For a name that other libraries have, the message has the reason instead.
    """

    def __init__(
        self, owner: str, name: str, known: Iterable[str], *, reason: str | None = None
    ) -> None:
        known = sorted(known)
        why = f": {reason}." if reason else f".{nearest_name(name, known)}"
        few = len(known) <= _SHOWN_NAMES
        takes = f" It takes: {', '.join(known)}." if few else ""
        super().__init__(f"{owner} has no argument {name!r}{why}{takes}")
        self.owner = owner
        self.name = name


# ------------------------------------------------------------------------------ model


class ModelError(UnillmError):
    """The model directory is missing, broken, unsafe or of a kind not supported."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no model at the path, and no cached download of that name."""


class ModelLoadError(ModelError, RuntimeError):
    """A file of the model is missing, corrupt or inconsistent with the others."""


class UnsafeModelError(ModelError, PermissionError):
    """Loading would run code from the checkpoint: `auto_map` or pickled weights."""


class UnsupportedModelError(ModelError, NotImplementedError):
    """The backend cannot serve this kind of model truthfully; the message says why."""


class TokenizerError(ModelLoadError):
    """No tokenizer was found, or it cannot be read."""


class ChatTemplateError(ModelError, ValueError):
    """The tokenizer has no chat template, or the template refused the messages."""


class EosNotFoundError(ModelError, ValueError):
    """No source names an EOS token; `files` lists the files that were read."""

    def __init__(self, message: str, *, files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.files = tuple(files)


# --------------------------------------------------------------------------- backends


class BackendError(UnillmError):
    """A backend cannot be found, cannot run here, or broke its contract."""


class BackendNotFoundError(BackendError, LookupError):
    """No installed plugin provides a backend of this name."""

    def __init__(self, message: str, *, name: str, installed: Sequence[str]) -> None:
        super().__init__(message)
        self.name = name
        self.installed = tuple(installed)


class BackendUnavailableError(BackendError, RuntimeError):
    """The backend is known but cannot run here; `remedy` is the command that helps."""

    def __init__(self, message: str, *, name: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.remedy = remedy


class PluginError(BackendError, RuntimeError):
    """A plugin failed to import, or does something that the contract forbids."""


# --------------------------------------------------------------------------- requests


class RequestError(UnillmError):
    """One request was refused or failed; the generator still serves the others.

    Attributes:
        prompt_index: Index of the prompt in the caller's list; `None` outside a list.
    """

    prompt_index: int | None = None


class RequestRefusedError(RequestError, ValueError):
    """The prompt or the params cannot be served, here or at all."""


class InvalidPromptError(RequestRefusedError):
    """The prompt is empty, has the wrong type or holds ids outside the vocabulary."""


class PromptTypeError(InvalidPromptError, TypeError):
    """The prompt has none of the forms that a prompt may have."""


class PromptTooLongError(InvalidPromptError):
    """The prompt leaves no room for a single new token.

    Attributes:
        prompt_tokens: Length of the prompt.
        max_prompt_tokens: The longest prompt that this generator takes.
        max_model_len: Context length: prompt and new tokens together.
        model_positions: Context that the model was made for; `None` if unknown.
    """

    def __init__(
        self,
        *,
        prompt_tokens: int,
        max_prompt_tokens: int,
        max_model_len: int,
        model_positions: int | None = None,
    ) -> None:
        reason = (
            "one must be left to generate"
            if max_prompt_tokens == max_model_len - 1
            else "the engine was built for this length"
        )
        # Programs for vLLM look for its words, which are the first here.
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens. The "
            f"prompt has {prompt_tokens} tokens; at most {max_prompt_tokens} fit, "
            f"because {reason}. Shorten the prompt, pass "
            f"SamplingParams(truncate_prompt_tokens={max_prompt_tokens}) to keep its "
            f"end, or {self.longer_context(max_model_len, model_positions)}."
        )
        self.prompt_tokens = prompt_tokens
        self.max_prompt_tokens = max_prompt_tokens
        self.max_model_len = max_model_len
        self.model_positions = model_positions

    @staticmethod
    def longer_context(max_model_len: int, model_positions: int | None) -> str:
        """Return what gives a request more context: an option, or another model."""
        if model_positions is None:
            return "create the Generator with a larger max_model_len"
        if model_positions > max_model_len:
            return (
                "create the Generator with a larger max_model_len, which may be "
                f"{model_positions} for this model"
            )
        return "choose a model with a longer context: this one was made for no more"


class InvalidParameterError(RequestRefusedError):
    """A field of `SamplingParams` has an impossible value, alone or with another.

    Attributes:
        parameter: Name of the field.
        value: The value that was given.
    """

    def __init__(self, message: str, *, parameter: str, value: Any = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.value = value


class UnsupportedParameterError(InvalidParameterError):
    """The chosen backend cannot honour a field, so it is refused, never dropped."""


class QueueFullError(RequestError, RuntimeError):
    """The waiting queue is at its limit; try again when a request has finished."""


class RequestTimeoutError(RequestError, TimeoutError):
    """The request did not end in the time allowed.

    Attributes:
        output: Output so far, if a deadline ended the request; `None` if only the
            waiting timed out and the request continues.
    """

    def __init__(self, message: str, *, output: RequestOutput | None = None) -> None:
        super().__init__(message)
        self.output = output


class RequestCancelledError(RequestError):
    """The request was cancelled.

    Attributes:
        output: Output until then.
    """

    def __init__(self, message: str, *, output: RequestOutput | None = None) -> None:
        super().__init__(message)
        self.output = output


class RequestFailedError(RequestError, RuntimeError):
    """The engine failed on this request alone and still serves the others."""


class RequestsFailedError(RequestError):
    """Some requests of one call failed; the results of the others are kept.

    Attributes:
        errors: Error of each failed request, by the index of its prompt.
        results: In the caller's order: a `RequestOutput`, or `None` where it failed.
    """

    def __init__(
        self,
        errors: Mapping[int, Exception],
        results: Sequence[RequestOutput | None],
    ) -> None:
        lines = [
            f"  prompt {index}: {type(error).__name__}: {error}"
            for index, error in list(errors.items())[:_SHOWN_ERRORS]
        ]
        if len(errors) > _SHOWN_ERRORS:
            lines.append(f"  … and {len(errors) - _SHOWN_ERRORS} more, in .errors")
        super().__init__(
            f"{len(errors)} of {len(results)} requests failed:\n"
            + "\n".join(lines)
            + '\nThe other results are in .results; with on_error="return" a Generator '
            "returns each error in place of its output instead of raising."
        )
        self.errors = dict(errors)
        self.results = list(results)


class RequestsRefusedError(RequestsFailedError, RequestRefusedError):
    """Each request that failed was refused for its prompt or its params."""


# ----------------------------------------------------------------------------- engine


class EngineError(UnillmError):
    """The engine as a whole failed."""


class EngineBuildError(EngineError, RuntimeError):
    """An engine could not be converted, compiled or kept; nothing is left of it.

    Attributes:
        key: Key of the engine.
        backend: Name of the backend.
    """

    def __init__(self, message: str, *, key: str, backend: str) -> None:
        super().__init__(message)
        self.key = key
        self.backend = backend


class EngineDeadError(EngineError, RuntimeError):
    """The engine stopped answering; create a new `Generator`."""


class EngineOutOfMemoryError(EngineError, MemoryError):
    """Weights, cache or activations do not fit; the message has the numbers."""


class GeneratorClosedError(UnillmError, RuntimeError):
    """The generator was closed before or while the request ran."""


class GeneratorForkedError(UnillmError, RuntimeError):
    """A forked child used the generator of its parent, whose engine it does not have.

    Attributes:
        owner_pid: Id of the process that created the generator.
    """

    def __init__(self, message: str, *, owner_pid: int) -> None:
        super().__init__(message)
        self.owner_pid = owner_pid


# ------------------------------------------------------------------------- batch jobs


class BatchError(UnillmError):
    """A job over a file of requests cannot go on; what it has finished is kept."""


class BatchInputError(BatchError, ValueError):
    """The input of a job cannot be read, or two of its lines have one id."""


class BatchMismatchError(BatchError, ValueError):
    """The output of a job exists and belongs to another one.

    Attributes:
        differences: Parts that differ between the two jobs; empty without another job.
    """

    def __init__(self, message: str, *, differences: Sequence[str]) -> None:
        super().__init__(message)
        self.differences = list(differences)


class BatchRunningError(BatchError, RuntimeError):
    """Another process works at the same job."""


class BatchStorageError(BatchError, OSError):
    """The disk of a job's output is full or failed, or its journal is damaged."""


# ------------------------------------------------------------------------- comparison


class SideFailedError(UnillmError, RuntimeError):
    """One side of a comparison could not be started, failed or ended early.

    Attributes:
        kind: Name of the error class on that side, which decides the exit code.
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
