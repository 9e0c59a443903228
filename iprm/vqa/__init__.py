"""Visual question answering with IPRM: data, models, training. The modules in `iprm` need nothing of it.

| folder | what it holds |
| --- | --- |
| `data/` | data sets behind one interface, and a generator of compositional questions |
| `models/` | encoders, reasoning modules, answer head |
| `training/` | training programs: `python -m iprm.train` |
| `experiments/` | the mechanism's own questions as commands: `python -m iprm.vqa.experiments` |
| `look/` | a trained model looked into: `python -m iprm.look` |

It needs the extra `train`.
"""
