# SPDX-License-Identifier: Apache-2.0

"""``vllm.transformers_utils``, where older programs look for tokenizers."""
