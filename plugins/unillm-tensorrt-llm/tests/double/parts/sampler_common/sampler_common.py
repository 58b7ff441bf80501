# SPDX-License-Identifier: Apache-2.0

"""``sampler.sampler_common``, mid-2026 (§4.2)."""

from trtllm_double import samplers

UtilsSamplingParams = samplers.make_utils_sampling_params()
