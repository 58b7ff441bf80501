# SPDX-License-Identifier: Apache-2.0

"""``sampler.seed_manager`` (PR #17172; §4.2)."""
