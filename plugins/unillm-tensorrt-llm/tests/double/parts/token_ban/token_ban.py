# SPDX-License-Identifier: Apache-2.0

"""``sampler.token_ban``: banned ids and ``min_tokens``, 2026 (§4.2)."""
