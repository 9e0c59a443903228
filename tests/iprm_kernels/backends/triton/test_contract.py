"""The contract of every backend, on the Triton kernels."""

from __future__ import annotations

import pytest
from device_contract import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("interpreted")
