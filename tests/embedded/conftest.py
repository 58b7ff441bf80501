# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import transformers
from embedded.tiny_models import VARIANTS, Reference

torch.set_num_threads(
    1
)  # the machines that run this have few cores, and others use them
transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=VARIANTS)
def family(request):
    return request.param
