# SPDX-License-Identifier: Apache-2.0

"""Continuous batching over static engines. No torch, no clock, no thread in here.

Private to the core.
"""
