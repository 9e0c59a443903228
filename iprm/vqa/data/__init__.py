"""Data sets as questions about scenes, and those as padded tensors.

| file | what it holds |
| --- | --- |
| `examples.py` | the interface: `Question`, `Scene`, and `Source`, which reads them |
| `sources.py` | the readers by name |
| `records.py` | JSON files, read object by object and checked |
| `programs.py` | the functional programs of CLEVR and the one executor that answers them |
| `clevr.py` | the files of CLEVR, CLEVR-CoGenT, CLEVR-Humans and the public generator |
| `clevrer.py` | the files of CLEVRER and CLEVRER-Humans: objects in frames |
| `scene_graphs.py` | the files of STAR and AGQA: objects and relations in frames |
| `features.py` | arrays of features, and the questions of another source about them |
| `tensors.py` | vocabularies, padded tensors, masks, deterministic batches |
| `frames.py` | still scenes seen over several frames |
| `generate/` | scenes and questions made from a seed, in CLEVR's files |
"""
