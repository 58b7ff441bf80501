# SPDX-License-Identifier: Apache-2.0

"""Backends that are broken in one way each, and the clauses that tell."""
