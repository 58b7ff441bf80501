# SPDX-License-Identifier: Apache-2.0

"""Prepared engines: what is converted, compiled or built once and loaded many times.

`key` says what an engine is prepared for, `store` keeps it, `plan` tells what would be
built and what it takes. Standard library and attrs only: it runs where no engine is.

Private to the core.
"""
