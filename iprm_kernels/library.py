"""The namespace `iprm` of registered operators."""

import torch

library = torch.library.Library("iprm", "DEF")
