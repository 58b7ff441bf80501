# SPDX-License-Identifier: Apache-2.0

"""The package that is shaped like vLLM: `LLM`, its arguments and vLLM's other names.

Private to the core; `unillm.LLM` is public.
"""
