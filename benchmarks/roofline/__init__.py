"""What the kernels, and the whole module, must cost on a card: counted, and the times that follow. All *predicted*:
nothing here ran on a card.

    python -m benchmarks.roofline
    python -m benchmarks.roofline --num-ops 1,6,16,32 --batch 64 --dim 512 --cards H100 --detail

A launch takes as long as the part of the card that is busiest with it, for within a launch they overlap, and a gap
before it, for launches do not overlap with one another:

    products   those that are executed, rows without a pair among them, at SUSTAINED of the datasheet's peak, and
               less where the instruction found in the machine code cannot reach it
    memory     bytes that move between chip and memory, each tensor of a launch once, even where it could stay in the
               second-level cache, at BANDWIDTH_SHARE of the datasheet's bandwidth
    cache      bytes that the tiles read through the second-level cache: weights for every tile, rows of g ⊙ v for
               every chunk that makes them anew; at CACHE_SHARE of its bandwidth
    issue      warp instructions of the machine code, each loop's times its turns, at one a clock and scheduler;
               counted ahead of time at R = 256 and D = 512 (machine.json, `--compile`), elsewhere not in it

Products and issue go by whole tiles: by the multiprocessor that has most. Where it holds one block at a time, little
can overlap its products with its other instructions: `alone` is the time if nothing does. The truth is between.

    floor      the larger of operations / peak and compulsory bytes / bandwidth: what is given read once, and what
               comes out written once
    ours       the launches of the Triton kernels, each at the first of its configurations, which tuning may better
    earlier    those of the earlier kernels of execution, which executed the first product of a chain twice and moved
               more between kernels
    published  the published form in eager PyTorch: one launch an operator, every intermediate written and read

What makes the middle of a chain, where R is over `configs.WIDEST`, is not counted.

The whole forward and training step (`module.py`) is the cores of all steps and whatever the module calls around them.
As a graph it takes the device's time; eager the host's, HOST for each launch, where that is longer.
"""

from benchmarks.roofline.cards import CARDS, Card
from benchmarks.roofline.counts import PASSES, Count, Launch, alone, launches, predicted
from benchmarks.roofline.tiles import Sizes

__all__ = ["CARDS", "PASSES", "Card", "Count", "Launch", "Sizes", "alone", "launches", "predicted"]
