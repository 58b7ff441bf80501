# SPDX-License-Identifier: Apache-2.0

"""A model by its files: where they are, what they declare, how much memory it takes.

Private to the core.
"""
