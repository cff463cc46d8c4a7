# `make app` and `make test` do all the set-up on a fresh clone; a second call starts in seconds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 7860
DATA ?=
AUTH ?=
ALLOW ?=
PROCESSES ?= 2
ABQ_REAL_MODEL ?=

.PHONY: venv app test real extras vllm browser check bench peers attack soak screenshots clean

venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,tasks]"
	touch $@

app: venv  ## serve the dashboard: make app HOST=127.0.0.1 PORT=7860 DATA=folder AUTH=accounts ALLOW="folder ..."
	$(if $(DATA),ABQ_DATA_DIR=$(DATA) )$(BIN)/abq app --host $(HOST) --port $(PORT)$(if $(AUTH), --auth $(AUTH))$(foreach folder,$(ALLOW), --allow $(folder))

# The kernels are compiled once, not by every test process.
test: venv  ## unit, property, contract and process tests: make test PROCESSES=4
	$(BIN)/python -m kernels.warm_up
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser and not attack and not real_model" --numprocesses $(PROCESSES) --dist worksteal --durations 15

real: venv  ## a user's workflow with a real chat model: make real ABQ_REAL_MODEL=folder
	$(if $(ABQ_REAL_MODEL),ABQ_REAL_MODEL="$(abspath $(ABQ_REAL_MODEL))" )$(BIN)/python -m pytest -m real_model tests/app/test_model_path.py

extras: venv  ## the tests that optional packages are needed for: CUDA's compiler, other engines, Ray, exports
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,tasks,gpu,peers,ray,exports]"
	$(BIN)/python -m pytest tests/kernels/cuda/test_compile.py tests/kernels/benchmark/test_peers.py tests/benchmarks/test_decode_peers.py \
		tests/app/jobs/test_ray_jobs.py tests/app/services/test_sweeps.py tests/abq_core/export \
		tests/app/cli/test_export_command.py -m "not slow" --numprocesses $(PROCESSES)

vllm: .venv-vllm/.ready  ## the tests of exports that need vLLM's CPU build
	.venv-vllm/bin/python -m pytest tests/abq_core/export/test_vllm.py

# torchvision and its like come as builds for CUDA, beside which transformers does not start with torch's CPU build.
.venv-vllm/.ready: tests/abq_core/export/vllm-requirements.txt pyproject.toml
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --requirement $< --editable ".[dev]"
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec torchvision
	touch $@

# Each file has a page of its own, so files can run side by side.
browser: venv  ## a person's path through the page, in Chromium
	$(BIN)/python -m pytest -m browser --numprocesses $(PROCESSES) --dist loadfile --durations 10

check: venv  ## format, lint, types, import contracts, the container's files, browser tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint deploy/Dockerfile
	$(MAKE) --no-print-directory browser

bench: venv  ## kernels of this machine against torch
	$(BIN)/abq bench kernels

peers: .venv-peers/.ready  ## the packages of GPTQ and AutoRound, apart: benchmarks/quality.py finds them there

.venv-peers/.ready: benchmarks/peers/requirements.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

attack: venv  ## hostile inputs, and a table of what held; make attack SHORT=1; on an older commit: AGAINST=COMMIT
	$(BIN)/python tests/attack $(if $(SHORT),--short) $(if $(AGAINST),--against $(AGAINST)) --numprocesses $(PROCESSES)

soak: venv  ## every promise about jobs and the server, measured on an idle machine; make soak SHORT=1 is a smaller one
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,tasks,fuzz,ray]"
	$(BIN)/python tests/soak $(if $(SHORT),--short) --json benchmarks/results/reliability.json --markdown docs/reliability.md

screenshots: venv  ## docs/images, from the running page
	$(BIN)/python scripts/screenshots.py

clean:
	rm -rf $(VENV) .venv-peers .venv-vllm build *.egg-info
