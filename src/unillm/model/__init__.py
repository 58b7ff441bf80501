# SPDX-License-Identifier: Apache-2.0

"""The files of a model: where they are, what they declare, how much memory they need.

Private to the core.
"""
