# SPDX-License-Identifier: Apache-2.0

"""OpenAI's bodies to prompts and params, and outputs to OpenAI's bodies and events.

Pure: no socket, no engine, no clock. Needs the extra ``[server]``.
"""
