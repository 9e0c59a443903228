"""A program of two processes that train together: `python trained_together.py RANK MEETING CONFIG...`, YAML files."""

import sys
from pathlib import Path

import torch.distributed as dist

from iprm.vqa.training.config import configuration
from iprm.vqa.training.run import train

if __name__ == "__main__":
    rank, meeting, *paths = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    for path in paths:
        train(configuration(Path(path)))
    dist.destroy_process_group()
