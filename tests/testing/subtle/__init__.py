# SPDX-License-Identifier: Apache-2.0

"""Backends that are right for most requests, for the random run."""
