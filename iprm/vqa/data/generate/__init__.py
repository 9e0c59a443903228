"""Scenes and questions made from a seed, in CLEVR's files: `python -m iprm.vqa.data.generate`."""
