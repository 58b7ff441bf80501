# SPDX-License-Identifier: Apache-2.0

"""Helpers for tests of backends and of applications; importing them loads no torch."""
