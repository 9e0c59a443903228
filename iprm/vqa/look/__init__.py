"""Looking inside a trained model: which words, objects and operations each step attends to.

| file | what it holds |
| --- | --- |
| `layout.py` | where each visual token of a scene is drawn |
| `record.py` | what a model does with questions, as plain data |
| `page.py` | that data as one HTML file (`page.html`) that needs no network |
| `figure.py` | one question as a static picture |
| `command.py` | `python -m iprm.look` |
"""
