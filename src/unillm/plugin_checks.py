# SPDX-License-Identifier: Apache-2.0

"""Checks of what plugins do and return, so that a broken one disturbs no other.

Whatever a plugin raises becomes a `PluginError` that names its distribution, and so
does a value of a wrong name or type, in one sentence with the mend.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .engines.backend import Availability, Backend
from .engines.base import Capabilities, Capability, Engine, EngineLimits
from .engines.batches import BatchEngine
from .engines.slots import SlotEngine
from .errors import PluginError, UnillmError


@contextlib.contextmanager
def blaming(plugin: str, act: str, *, passes: bool = False) -> Iterator[None]:
    """Make a `PluginError` of whatever the block raises, but for Ctrl-C.

    Args:
        plugin: Its distribution.
        act: What it was asked to do, to follow "while".
        passes: Whether errors of unillm pass unchanged.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call `sys.exit`
        if passes and isinstance(error, UnillmError):
            raise
        raise PluginError(
            f"The plugin {plugin} raised {type(error).__name__} while {act}: "
            f"{_text_of(error)}. Upgrade or uninstall it, or choose another backend."
        ) from error


def check_backend(plugin: str, name: str, backend: Any) -> Backend:
    """Return what `unillm_create_backend` returned, if it is a `Backend` of that name.

    Raises:
        PluginError: It is something else, or an attribute has a wrong value.
    """
    if isinstance(backend, type) and issubclass(backend, Backend):
        raise PluginError(
            f"The plugin {plugin} returned the class {backend.__name__} for the "
            f"backend {name!r}; return an instance of it: {backend.__name__}()."
        )
    if not isinstance(backend, Backend):
        hint = (
            f"it must return a Backend for the name {name!r}, in lower case"
            if backend is None
            else "unillm_create_backend must return a Backend"
        )
        raise PluginError(
            f"The plugin {plugin} returned {_shown(backend)} for the backend {name!r}; "
            f"{hint}."
        )
    with blaming(plugin, f"giving the attributes of its backend {name!r}"):
        own_name = backend.name
        wrong = next(_wrong_attributes(backend), None)
    if own_name != name:
        raise PluginError(
            f"The plugin {plugin} calls its backend {_shown(own_name)}, and its entry "
            f"point is called {name!r}; write name = {name!r} in "
            f"{type(backend).__name__}, or rename the entry point."
        )
    if wrong is not None:
        raise PluginError(
            f"The plugin {plugin} has a wrong attribute in its backend {name!r}: "
            f"{wrong}."
        )
    return backend


def check_entry_point(plugin: str, name: str) -> None:
    """Raise `PluginError` if the name of an entry point is not in lower case."""
    if name != name.lower():
        raise PluginError(
            f"The plugin {plugin} has the entry point {name!r}, and names of backends "
            f"are in lower case; call it {name.lower()!r}, and Backend.name too."
        )


def check_availability(plugin: str, backend: Backend) -> Availability:
    """Ask a backend for its availability.

    Raises:
        PluginError: It raises, or returns something else.
    """
    with blaming(plugin, f"saying whether the backend {backend.name!r} can run here"):
        found: Any = backend.availability()
    if (
        isinstance(found, Availability)
        and isinstance(found.available, bool)
        and isinstance(found.reason, str)
    ):
        return found
    value = found if isinstance(found, bool) else True
    raise PluginError(
        f"The plugin {plugin} returned {_shown(found)} from availability() of the "
        f"backend {backend.name!r}; return Availability(available={value}"
        f"{'' if value else ', reason=...'})."
    )


def check_refusal(plugin: str, backend: Backend, found: Any) -> str | None:
    """Return the result of `Backend.refusal`, if it is a text or `None`."""
    if found is None or isinstance(found, str):
        return found
    raise PluginError(
        f"The plugin {plugin} returned {_shown(found)} from refusal() of the backend "
        f"{backend.name!r}; return None, or a sentence that says why it cannot serve "
        "the model."
    )


def check_engine(plugin: str, engine: Any) -> Engine:
    """Return the result of `Backend.create_engine`, if it is an `Engine`.

    Raises:
        PluginError: It is something else, or has no limits or capabilities.
    """
    kind = type(engine).__name__
    if not isinstance(engine, Engine):
        mend = "return an Engine"
        if isinstance(engine, SlotEngine):
            mend = "a SlotEngine needs a scheduler: return SlotScheduler(engine)"
        elif isinstance(engine, BatchEngine):
            mend = (
                "a BatchEngine needs a scheduler: return RunScheduler(engine, "
                "clock=time.perf_counter)"
            )
        raise PluginError(
            f"The plugin {plugin} returned a {kind} from create_engine(); {mend}."
        )
    for name, expected in (("limits", EngineLimits), ("capabilities", Capabilities)):
        with blaming(plugin, f"giving {name} of its engine {kind}"):
            value = getattr(engine, name)
        if not isinstance(value, expected):
            raise PluginError(
                f"The plugin {plugin} has {_shown(value)} as {name} of its engine "
                f"{kind}; set self.{name} = {expected.__name__}(...) in __init__."
            )
    if wrong := _wrong_capabilities(engine.capabilities):
        raise PluginError(f"The plugin {plugin} has a wrong engine {kind}: {wrong}.")
    return engine


def _text_of(error: BaseException) -> str:
    try:
        return str(error) or "no message"
    except Exception:  # noqa: BLE001 - a plugin's error may fail at that too
        return "an error without a readable message"


def _shown(value: object) -> str:
    """Return a short `repr` of an object of a plugin."""
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - it may raise anything
        return f"an object of {type(value).__name__}"


def _wrong_attributes(backend: Any) -> Iterator[str]:
    """Yield a sentence for each attribute of a wrong type."""
    rank, options = backend.auto_rank, backend.option_names
    if not isinstance(backend.description, str):
        yield f"description is {_shown(backend.description)}; it must be a text"
    if not (rank is None or (isinstance(rank, int) and not isinstance(rank, bool))):
        yield f"auto_rank is {rank!r}; it must be an integer or None"
    for name, value in (
        ("option_names", frozenset() if options is None else options),
        ("engine_options", backend.engine_options),
    ):
        if isinstance(value, str) or not isinstance(value, Collection):
            yield f"{name} is {_shown(value)}; write frozenset({{...}})"
    if not isinstance(backend.option_reasons, Mapping):
        yield f"option_reasons is {_shown(backend.option_reasons)}; write {{...}}"
    version = backend.api_version
    numbers = version if isinstance(version, tuple) else ()
    if [type(number) for number in numbers] != [int, int]:
        yield f"api_version is {_shown(version)}; write two numbers: (1, 0)"
    if not isinstance(backend.capabilities, Capabilities):
        yield (
            f"capabilities is {_shown(backend.capabilities)}; write "
            "Capabilities(fields={...})"
        )
    elif wrong := _wrong_capabilities(backend.capabilities):
        yield wrong


def _wrong_capabilities(capabilities: Any) -> str:
    if not isinstance(capabilities.fields, Mapping):
        return f"capabilities.fields is {_shown(capabilities.fields)}; write {{...}}"
    for name, value in capabilities.fields.items():
        if not isinstance(value, Capability):
            return (
                f"capabilities have {_shown(value)} for {name!r}; write "
                "Capability(support=..., reason=...)"
            )
    return ""
