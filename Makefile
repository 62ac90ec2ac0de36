# make demo | test | conformance | fuzz | lint | format | gpu-check | clean. Needs Python 3.11 or newer with venv, and a linker (gcc, clang or ld.lld).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2

.PHONY: demo test conformance fuzz lint format gpu-check clean

demo: $(VENV)/.installed-ort
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

test: $(VENV)/.installed-test
	COLUMNS=200 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

# The whole of ONNX's suite; the result goes into docs/conformance.md. Tests run a quarter of it.
conformance: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/onnx/run_suite.py --jobs $(JOBS) --page

# Broken models, none of which may be anything but taken or refused; 20,000 take about five minutes.
fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/fuzz/run_fuzz.py --count 20000

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/package_view.py
	$(BIN)/mypy
	cd build/view && $(CURDIR)/$(BIN)/lint-imports --no-logo --config $(CURDIR)/pyproject.toml

# Every template against float64 on this machine's GPU, then times beside torch; exit status 2 without a GPU.
gpu-check: $(VENV)/.installed-gpu
	$(BIN)/python benchmarks/gpu/run.py --models

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One stamp per set of extras: an install is repeated only when pyproject.toml changed.
$(VENV)/.installed-%: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/.created:
	@scripts/make_venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
