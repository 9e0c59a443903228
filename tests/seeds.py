"""The seed of a run of the tests: IPRM_TEST_SEED, 0 by default. Numbers must be right with any."""

from __future__ import annotations

import os

SEED = int(os.environ.get("IPRM_TEST_SEED", "0"))
