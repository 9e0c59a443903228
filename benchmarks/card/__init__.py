"""The first run on a card: build, native tests, a short sweep, the times of single kernels; one record and one page.

    python -m benchmarks.card                          (or: make card)
    python -m benchmarks.card --minutes 9              what is left over is for the next call
    python -m benchmarks.card --parts tests-triton --again

It takes the Python that runs it as it is, and no network. Each part is a process of its own with less than ten minutes,
and notes what it finds as it goes. Run again, finished parts stay as they are, and what was broken off goes on where it
stopped. What fails is reported and stops nothing else. Without a card all of it runs dry: tiny, on the processor, to
show the form. The record is docs/cards/CARD.json and the page beside it is made of the record alone; those of a dry run
go to build/card.

The exit status is 0 when all parts are done or cannot run here, 1 when something failed or ran out of time, 3 when
nothing did but parts are left.
"""
