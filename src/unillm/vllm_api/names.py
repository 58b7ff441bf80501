# SPDX-License-Identifier: Apache-2.0

"""Names of vLLM's that programs import and that are not here, with what is instead."""

from __future__ import annotations

from collections.abc import Mapping

_NO_VECTORS = "unillm generates text; it does not embed, classify or score"
_ENGINE_ARGS = "pass its fields to LLM, or to Generator under the same names"
_ENGINE = "use Generator: submit() and stream() add requests, a thread steps the engine"
_ASYNC = "use Generator: agenerate() and astream() serve any number of event loops"

NOT_HERE: Mapping[str, str] = {
    "AsyncEngineArgs": _ENGINE_ARGS,
    "AsyncLLMEngine": _ASYNC,
    "BeamSearchParams": "no backend has beam search",
    "ClassificationOutput": _NO_VECTORS,
    "ClassificationRequestOutput": _NO_VECTORS,
    "EmbeddingOutput": _NO_VECTORS,
    "EmbeddingRequestOutput": _NO_VECTORS,
    "EngineArgs": _ENGINE_ARGS,
    "GuidedDecodingParams": "vLLM renamed it; use StructuredOutputsParams, and pass it "
    "as SamplingParams(structured_outputs=…)",
    "LLMEngine": _ENGINE,
    "ModelRegistry": "backends bring their models; a new engine is a plugin",
    "PoolingOutput": _NO_VECTORS,
    "PoolingParams": _NO_VECTORS,
    "PoolingRequestOutput": _NO_VECTORS,
    "RequestOutputKind": "generate() returns what is finished, stream() yields what is "
    "new",
    "ScoringOutput": _NO_VECTORS,
    "ScoringRequestOutput": _NO_VECTORS,
    "initialize_ray_cluster": "on vLLM, distributed_executor_backend='ray' does it",
}
"""``from unillm import …`` of one of these says what to use instead."""
