# SPDX-License-Identifier: Apache-2.0

"""Text to token ids and back: tokenizers, end ids, prompts, incremental decoding.

Private to the core.
"""
