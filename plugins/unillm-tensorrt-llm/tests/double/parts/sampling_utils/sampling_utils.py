# SPDX-License-Identifier: Apache-2.0

"""``sampling_utils``, in 1.2 beside the sampler, then in its package (§4.2)."""

from trtllm_double import samplers

UtilsSamplingParams = samplers.make_utils_sampling_params()
