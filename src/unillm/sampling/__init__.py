# SPDX-License-Identifier: Apache-2.0

"""Sampling for engines that return logits: token ids for all rows of a step at once.

Names, meanings and order are those of vLLM 0.32. A token depends on the request's seed,
its number of new tokens and its logits alone: not on the slot, the other rows or the
batch size.

Private to the core; `unillm.backend` exports `Sampler`, for tensors of torch, and
`RequestSampler`, for arrays of numpy.
"""
