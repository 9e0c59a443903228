"""Data sets as questions about scenes, and those as padded tensors.

| file | what it holds |
| --- | --- |
| `examples.py` | the interface: `Question`, `Scene`, and `Source`, which reads them |
| `sources.py` | the readers by name |
| `records.py` | the records of a JSON file, as a stream |
| `programs.py` | the functional programs of CLEVR and the one executor that answers them |
| `clevr.py` | CLEVR's files |
| `tensors.py` | vocabularies, padded tensors, masks, deterministic batches |
| `generate/` | scenes and questions made from a seed, in CLEVR's files |
"""
