# Needs python3 (3.11 or later) with pip and venv. Everything goes into .venv; nothing asks.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-full soak bench teachers lint format docs clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "making .venv with the tested versions of constraints.txt (PyTorch alone is several GB: minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $(STAMP)

demo: install
	$(BIN)/mfer demo

test: install
	$(BIN)/python -m pytest

# Adds what is long, kills processes, fills disks or starts servers.
test-full: install
	$(BIN)/python -m pytest -m "full and not needs_cuda"

# Every way of breaking files, lakes and processes, fifty kills, and ten minutes of damaged bytes; findings stay in fuzz_out/.
soak: install
	$(BIN)/python -m pytest -m "soak or full" tests/storage tests/pipelines tests/flows/test_faults.py
	$(BIN)/python -m tests.fuzz --seconds 600 --out fuzz_out

# Speed beside a plain script, the faces that are followed against MTCNN on every frame, and a large lake: an hour, and 7 GB for the package fer.
bench: install
	$(BIN)/python -m benchmarks.detection --json benchmarks/results/detection.json
	$(BIN)/python -m benchmarks.speed --json benchmarks/results/speed.json
	$(BIN)/python -m benchmarks.scale --rows 10000000 --json benchmarks/results/scale.json
	$(BIN)/python -m benchmarks.isolation --json benchmarks/results/isolation.json

# The pretrained weights that training a teacher starts from; nothing else needs them.
teachers: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[teacher]' -c constraints.txt
	$(BIN)/python -m mfer.teachers

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/; a link that leads nowhere stops it.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo_out site
