"""Compositional visual questions in CLEVR's file format: data, a model around IPRM, and a training program.

`python -m iprm.clevr.train` trains the reference module and the fast module side by side.

| file | what it holds |
| --- | --- |
| `programs.py` | the functional programs of CLEVR and the one executor that answers them |
| `scenes.py` | random scenes, with CLEVR's spatial relationships |
| `questions.py` | question templates, each with its program |
| `generate.py` | scenes and questions written as CLEVR's files |
| `files.py` | those files, or the real ones, read as a stream |
| `data.py` | vocabularies, padded tensors, masks, deterministic batches |
| `priors.py` | what the most frequent answers reach without looking |
| `model.py` | encoders, IPRM and the answer head |
| `variants.py` | the two modules that are compared |
| `trainer.py` | one model with its optimiser: a step, an evaluation, their times |
| `memory.py` | the peak memory of a training step, in a fresh process |
| `report.py` | the tables and the JSON record |
| `train.py` | the command |
"""
