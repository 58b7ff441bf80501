# SPDX-License-Identifier: Apache-2.0

"""Forms of a layer's weights: fused, packed by oneDNN, quantised, and with adapters."""
