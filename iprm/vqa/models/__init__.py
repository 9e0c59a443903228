"""Models that answer questions.

| file | what it holds |
| --- | --- |
| `encoders.py` | words and visual tokens to the model's width |
| `reasoners.py` | the reasoning modules by name: IPRM as written, IPRM on the kernels, the baselines |
| `baselines.py` | cross-attention, concatenation-attention and question-only blocks of IPRM's size |
| `answerer.py` | encoders, a reasoning module and an answer head |
"""
