# SPDX-License-Identifier: Apache-2.0

"""Text to token ids and back: tokenizers, EOS tokens, prompts, incremental decoding.

Private to the core.
"""
