"""Training.

| file | what it holds |
| --- | --- |
| `trainer.py` | one model with its optimiser: a step, an evaluation, their times |
| `priors.py` | what the most frequent answers reach without looking |
| `side_by_side.py` | trains the reference and the fast module from the same weights and compares them |
| `memory.py` | the peak memory of a training step, in a fresh process |
| `report.py` | the tables and the JSON record of that command |
"""
