"""IPRM: iterative and parallel reasoning over language and visual tokens (NeurIPS 2024).

`iprm.reference.IPRM` is the mechanism as it is written, `iprm.fast.IPRM` the same module on fused kernels.
"""

from iprm.config import IPRMConfig
from iprm.reference import Attention

__all__ = ["Attention", "IPRMConfig"]
__version__ = "0.1.0"
