"""The judge sees every small mistake in the path of the CUDA kernels."""

from device_planted import *  # noqa: F403
