"""A checkpoint of the published code, loaded in two ways that compute the same.

    python examples/published_checkpoint.py                  # makes one, of the published names, in build/
    python examples/published_checkpoint.py WEIGHTS.pt       # a state dict of the module alone, for OPTIONS below

Nothing is converted on disk, and `to_official` gives back the published names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from iprm import fast
from iprm.official import (
    Recurrent_Memory_Attention_Module,
    config_from_official,
    from_official,
    strip_prefixes,
    to_official,
)

# The published `cfg`, as mappings or as objects with attributes; what is missing has its default.
OPTIONS = {
    "VLM": {"DIM": 64},
    "IPRM": {
        "NUM_MEMORY_TOKENS": 6,
        "NUM_COMPUTATION_STEPS": 9,
        "MEMORY_ATT_WINDOW_LEN": 2,
        "MEMORY_STATE_UPDATE_DO_KEY_PROJ_OF_LANG_STATE": True,
    },
}
DIM = OPTIONS["VLM"]["DIM"]


def make() -> Path:
    """Write weights as a data-parallel training of the published module does, with `module.` before each name."""
    path = Path("build/published.pt")
    path.parent.mkdir(exist_ok=True)
    state = Recurrent_Memory_Attention_Module(DIM, OPTIONS).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
    return path


def main() -> None:
    """Load the checkpoint twice and compare the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="made where none is given")
    torch.manual_seed(0)
    path = parser.parse_args().checkpoint or make()
    state = torch.load(path, map_location="cpu", weights_only=True)

    # Code that calls the published class keeps its call.
    published = Recurrent_Memory_Attention_Module(DIM, OPTIONS).eval()
    published.load_state_dict(strip_prefixes(state))

    # New code has the weights under this package's names; `iprm.reference.IPRM` takes them as well.
    config = config_from_official(OPTIONS)
    model = fast.IPRM(config).eval()
    model.load_state_dict(from_official(state, config))

    B, L, N = 2, 12, 49
    language, summary, visual = torch.randn(B, L, DIM), torch.randn(B, DIM), torch.randn(B, N, DIM)
    words, cells = torch.ones(B, L), torch.ones(B, N)
    words[1, 8:] = 0
    with torch.no_grad():
        theirs = published(language, summary, visual.mT, words, cells)  # visual (B, D, N), masks 1 = keep
        ours = model(language, summary, visual, words.bool(), cells.bool())  # visual (B, N, D), masks true = keep
    print(f"{path}: {len(state)} tensors, K = {config.num_ops}, T = {config.num_steps}, D = {config.dim}")
    print(f"largest difference of the results: {(theirs - ours).abs().max():.1e}")

    back, given = to_official(model.state_dict(), config), published.state_dict()
    print(f"published weights given back: {sum(torch.equal(back[name], given[name]) for name in back)} of {len(back)}")


if __name__ == "__main__":
    main()
