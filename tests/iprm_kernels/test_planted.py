"""The judge sees every small mistake planted in the path of each backend that can run here."""

from __future__ import annotations

import pytest
import torch
from device_cores import on  # noqa: F401
from device_planted import *  # noqa: F403

pytestmark = pytest.mark.numerical


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu")
