"""Training.

| file | what it holds |
| --- | --- |
| `run.py` | a whole training in a folder: begun, gone on with, finished; `python -m iprm.train` |
| `config.py`, `configs/` | its configuration, and examples |
| `checkpoint.py` | checkpoints, whole or not there |
| `distributed.py` | the processes that train one model together |
| `interruption.py` | Ctrl-C as a request to stop after a step |
| `logs.py` | TensorBoard, the progress bar |
| `trainer.py` | one model with its optimiser: a step, an evaluation, their times |
| `multiple_choice.py` | questions of multiple choice judged with all of their options |
| `priors.py` | what the most frequent answers reach without looking |
| `side_by_side.py` | trains the reference and the fast module from the same weights and compares them |
| `memory.py` | the peak memory of a training step, in a fresh process |
| `report.py` | the tables and the JSON record of side_by_side.py |
"""
