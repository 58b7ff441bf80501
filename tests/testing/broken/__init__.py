# SPDX-License-Identifier: Apache-2.0

"""Backends with one defect each, and the clauses that detect it."""
