# SPDX-License-Identifier: Apache-2.0

"""Continuous batching over engines that lack it: decisions alone, without tensors.

Private to the core; `unillm.backend` exports the schedulers.
"""
