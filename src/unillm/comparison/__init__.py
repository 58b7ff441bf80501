# SPDX-License-Identifier: Apache-2.0

"""The same prompts on two backends, compared token by token.

`sides` runs each backend in a process (and, if asked, a Python environment) of its own,
`worker` is the program of that process, and `verdict` compares the answers.
"""
