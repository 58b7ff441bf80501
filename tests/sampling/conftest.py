# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import torch

torch.set_num_threads(1)  # the tensors are tiny
