# Everything a fresh machine needs is Python 3.11 with venv and pip: every target sets up .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NODE_MODULES := tests/javascript/node_modules

# Where the environment forbids it, each of the hundreds of processes that tests start would compile all sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast clusters soak bench reference check clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## The whole path on drawn data, into captune-demo/
	$(BIN)/captune demo --out captune-demo

# What the reader in JavaScript is tested with, and a second server of S3, where npm is: 300 MB on disk, without which
# their tests are skipped.
$(NODE_MODULES): tests/javascript/package.json
	if command -v npm; then cd tests/javascript && npm install --ignore-scripts --no-package-lock --no-audit --no-fund \
	  || echo 'npm cannot install it: tests that need it are skipped'; fi
	if test -d $@; then touch $@; fi

test: $(READY) $(NODE_MODULES)  ## The tests but for the longest, three files at a time: many of them wait for processes
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: $(READY)  ## Tests of what needs neither Keras nor Ray, in two minutes or so
	$(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile fast -m 'not slow and not cluster'

clusters: $(READY)  ## Launch files with real SLURM and real machines; root installs what that needs from Debian
	if [ "$$(id -u)" = 0 ]; then DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
	  slurm-wlm munge openssh-client openssh-server rsync iproute2 procps; fi
	$(BIN)/python -m pytest tests/clusters/slurm.py tests/clusters/ray_up.py

soak: $(READY)  ## Kills by the dozen, drawn input by the thousand, and what takes longest
	CAPTUNE_SOAK=30 $(BIN)/python -m pytest tests/test_survival.py --timeout 3600
	$(BIN)/python -m pytest -n 2 -m 'soak or fuzz' --hypothesis-profile soak --timeout 3600

bench: $(READY)  ## Measurements, one table each
	for file in tests/benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

reference: $(READY)  ## tuner/space/README.md as the declarations have it
	$(BIN)/python -m captune.tuner.space.explain

check: $(READY)  ## Format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(NODE_MODULES) captune-demo
