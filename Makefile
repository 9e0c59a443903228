# Everything runs in the project's own virtual environment, made on first use.
#   make run    train the reference and the fast module side by side, then the short benchmark: results/
#   make test   the tests
#   make check  lint, types and a quick selection of the tests: before every commit
#   make look   a page that looks into a trained model
#   make experiments  the experiments in their short form, FORM=full for the long one
#   make any-processor  the numerical ones under the settings that change how a processor sums: a table
#   make any-triton  the Triton backend under the oldest Triton that it serves and the newest: a table
#   make lint   ruff and clang-format, check only;  make format  applies them
#   make types  pyright over both packages
#   make docs   the documentation site, strictly: build/site
#   make bench  the full benchmark sweep
#   make bench-growth  how cost grows with each size, with fitted exponents, on the CPU
#   make bench-compare BASE=HEAD~1  whether this checkout is slower than a commit;  make bench-record  files the last sweep
#   make card   on a machine with a GPU, with the Python and torch that are there: build, tests, sweep, kernels; docs/cards
#   make wheels  wheels with the kernels, PYTHONS="python3.10 python3.13" TORCHES="2.6.0 2.13.0", each tried: dist/
#   make try-installs  each way to install, in a fresh environment: a table
# TORCH is the requirement that the environment is made with: make test TORCH=torch==2.13.0

PYTHON ?= python3
TORCH ?= torch
VENV ?= .venv
OUT ?= results

BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(subst =,-,$(subst <,-,$(subst >,-,$(TORCH))))
SOURCES := pyproject.toml setup.py build_backend.py build_cuda.py $(shell find csrc -type f)
NATIVE := find csrc benchmarks tests/cuda_on_host -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu'

.PHONY: run train look experiments bench bench-short bench-growth bench-compare bench-record card test check any-processor
.PHONY: any-triton lint types docs format wheels try-installs clean

run: train bench-short

train: $(READY)
	$(BIN)/python -m iprm.vqa.training.side_by_side --record $(OUT)/train.json

look: $(READY)
	$(BIN)/python -m iprm.look --open

FORM ?= short

experiments: $(READY)
	$(BIN)/python -m iprm.vqa.experiments all --form $(FORM) --jobs 2

# The report is written even where a variant was found wrong, which it then shows; the run fails all the same.
BENCHMARK = $(BIN)/python -m pytest benchmarks -q --benchmark-json=$(OUT)/benchmark.json
REPORT = $(BIN)/python -m benchmarks.report $(OUT)/benchmark.json --out $(OUT)

bench-short: $(READY)
	$(BENCHMARK) --short; status=$$?; $(REPORT) && exit $$status

bench: $(READY)
	$(BENCHMARK); status=$$?; $(REPORT) && exit $$status

bench-growth: $(READY)
	$(BIN)/python -m pytest benchmarks -q --growth --device cpu --variants "reference,fast[cpu]+least,fast[cpu]+fast" \
		--benchmark-json=$(OUT)/growth.json
	$(BIN)/python -m benchmarks.growth $(OUT)/growth.json --out $(OUT)/growth.md

BASE ?= HEAD~1

bench-compare: $(READY)
	$(BIN)/python -m benchmarks.compare $(BASE)

bench-record: $(READY)
	$(BIN)/python -m benchmarks.history $(OUT)/benchmark.json

# Needs no network and makes no environment: nothing of READY. MINUTES bounds one call; the next goes on.
MINUTES ?=

card:
	$(PYTHON) -m benchmarks.card $(if $(MINUTES),--minutes $(MINUTES))

# Most tests keep one core busy, so they run side by side: a process a core, at most four as each takes a GB or two of
# memory. WORKERS=0 runs them one after the other.
WORKERS ?= auto
BESIDE = --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal

test: $(READY)
	$(BIN)/python -m pytest $(BESIDE)

check: lint types
	$(BIN)/python -m pytest -q -m quick $(BESIDE)

# The numerical tests under other settings of processor and library, each run with another seed; RUNS=20 says how many.
RUNS ?= 20

any-processor: $(READY)
	$(BIN)/python tests/any_processor.py --runs $(RUNS) $(BESIDE)

# Each is installed from the package index into build/triton.
any-triton: $(READY)
	$(BIN)/python tests/any_triton.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(NATIVE) | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format --default-filetype yaml CITATION.cff

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

# Ruff, on PATH, lays out the signatures.
docs: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(NATIVE) | xargs $(BIN)/clang-format -i

# Torch comes first, so that the kernels are compiled against the torch that they will run with.
$(READY): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet "$(TORCH)" ninja numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[train,bench,test,dev,docs]"
	rm -f $(VENV)/.ready-*
	touch $@

PYTHONS ?= $(PYTHON)
TORCHES ?= 2.13.0

wheels: $(READY)
	$(BIN)/python release/build_wheels.py --python $(PYTHONS) --torch $(TORCHES)

try-installs: $(READY)
	$(BIN)/python release/try_installs.py --torch "$(TORCH)"

clean:
	rm -rf build $(OUT) iprm_kernels/*.so iprm_kernels/_build.json
