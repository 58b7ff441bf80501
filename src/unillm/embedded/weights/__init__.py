# SPDX-License-Identifier: Apache-2.0

"""Forms of weights: fused, packed for oneDNN, quantised, and with LoRA adapters."""
