"""Experiments with the mechanism, each a command: `python -m iprm.vqa.experiments NAME`.

| name | what it asks |
| --- | --- |
| `accuracy` | what is learnt, against priors, a question-only block and the reference module? |
| `steps` | does attention pay the steps of the true program? |
| `sizes` | K operations in parallel, T steps in sequence: what does accuracy owe to each? |
| `ablations` | what are composition, memory in execution, window and reduction worth? |
| `generalisation` | what becomes of longer programs, unseen pairs of attributes, more objects? |
| `cost` | what does accuracy cost in time and memory, against other blocks of equal size? |
| `signs` | do operations collapse, does attention stray; what is answered to contradictions? |
| `frames` | accuracy and cost as frames grow |

`forms.py` says how large they are; `running.py` makes their trainings, `timing.py` measures times, `tables.py` writes.

Each writes its runs (JSON), tables (Markdown) and figures (PNG), and goes on where it was stopped.
"""
