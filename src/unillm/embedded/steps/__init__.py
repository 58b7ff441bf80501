# SPDX-License-Identifier: Apache-2.0

"""Ways to compute a step: eagerly, compiled on a CPU, or from recorded CUDA graphs."""
