# SPDX-License-Identifier: Apache-2.0

"""``sampler.penalties`` (PR #16485; §4.2)."""
