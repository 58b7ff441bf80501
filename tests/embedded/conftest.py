# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
import transformers
from embedded.serving import Reference
from embedded.tiny_models import VARIANTS

torch.set_num_threads(1)  # test machines have few cores, which other processes share
transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=VARIANTS)
def family(request):
    return request.param
