# Every target does its own set-up: a virtual environment from the lock file, made with uv, which is
# installed into a private folder where it is missing. Nothing outside this folder and ~/.cache is touched.

PYTHON ?= python3
UV := $(or $(shell command -v uv 2>/dev/null),.cache/uv/bin/uv)
BIN := .venv/bin
SYNCED := .venv/.synced
SOURCES := crds operator quantizer kernels dev tests benchmarks

.PHONY: help demo test test-tasks lint kernels e2e engines bench gpu generate clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(SYNCED) ## From kubectl apply to a promoted checkpoint on a real cluster (root, or KUBECONFIG)
	$(BIN)/saffron-dev demo

test: $(SYNCED) ## All tests but the slow suites; needs no root
	$(BIN)/python -m pytest

test-tasks: $(SYNCED) ## The tests that need lm-evaluation-harness, in a virtual environment of their own
	UV_PROJECT_ENVIRONMENT=.cache/tasks $(UV) sync --frozen --group dev --group tasks
	.cache/tasks/bin/python -m pytest tests/quantizer/test_tasks.py

lint: $(SYNCED) ## Format, lint, types, import contract, generated files
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m saffron_api.generate --check

kernels: $(SYNCED) ## The Triton kernels compiled for cards that aren't there, and compared with what is recorded
	TRITON_CACHE_DIR=$(CURDIR)/.cache/triton $(BIN)/python -m saffron_kernels.aot --check

e2e: $(SYNCED) ## The demo's flow with the operator killed five times, and bad input, on a real cluster
	$(BIN)/python -m pytest -m cluster -o addopts="--import-mode=importlib --strict-markers -ra" tests/dev tests/e2e

engines: $(SYNCED) ## A tiny model of every architecture in vLLM, in a virtual environment of its own; needs AVX512
	$(BIN)/python -m pytest -m engine -o addopts="--import-mode=importlib --strict-markers -ra" tests/quantizer

bench: $(SYNCED) ## Side by side with llm-compressor: perplexity, time, peak memory
	$(BIN)/python benchmarks/peers.py

gpu: $(SYNCED) ## On a machine with a CUDA card: each kernel against its reference, then its time beside cuBLAS and peers
	$(BIN)/python -m pytest -m gpu -o addopts="--import-mode=importlib --strict-markers -ra" tests/gpu tests/quantizer
	$(BIN)/python benchmarks/gpu.py

generate: $(SYNCED) ## Write what is generated from the types: the CRD and its reference
	$(BIN)/python -m saffron_api.generate

clean: ## Remove the virtual environment and this folder's caches
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(SYNCED): uv.lock pyproject.toml $(wildcard */pyproject.toml) | $(UV)
	$(UV) sync --frozen --group dev
	@touch $@

.cache/uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Saffron needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .cache/uv || \
		{ echo "python3 has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	.cache/uv/bin/pip install --quiet uv
