# SPDX-License-Identifier: Apache-2.0

"""The contract between the core and a backend, and the loop that drives it.

Private to the core.
"""
