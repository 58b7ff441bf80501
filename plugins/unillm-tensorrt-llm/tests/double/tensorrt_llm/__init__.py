# SPDX-License-Identifier: Apache-2.0

"""The top level of the current version (§1.2).

Each other module stands in a folder of ``parts``, and a version has the folders that
its profile names, so that the others can be neither found nor imported.
"""

from trtllm_double import configs as _configs
from trtllm_double import llm as _llm
from trtllm_double import params as _params
from trtllm_double.parts import PARTS as _PARTS
from trtllm_double.profiles import current as _current

_profile = _current()
__version__ = _profile.version
__path__ += [str(_PARTS / part) for part in _profile.modules]

SamplingParams = _params.make_sampling_params()
if _profile.llm is not None:
    LLM = _llm.make_llm(_profile.llm)
if _profile.runtime and _profile.llm is not None:
    BuildConfig = _configs.make_build_config()
