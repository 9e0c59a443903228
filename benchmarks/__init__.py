"""Speed and memory of the mechanism: sweeps for pytest-benchmark, and their report.

    python -m pytest benchmarks --short     (or --headline, or axes: see --help, "iprm")
    python -m benchmarks.report results/benchmark.json --out results

Results go to results/benchmark.json unless --benchmark-json names another file.
"""
