# Everything happens inside .venv: nothing outside this folder is touched, and no privileges are needed.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Where the environment forbids Python to keep what it has compiled, every process would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-aarch64 test-boards format setup bench-ring bench-links bench-ddp bench-compression bench-overlap bench-boards fuzz fuzz-api bench-namespaces bench-worlds bench-relay bench-clocks bench-orbit bench-detection clean

demo: $(READY)  ## the main job: three compressors over four satellites' links
	$(BIN)/edgesim run topologies/leo-ring-4.yaml

test: $(READY)  ## lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; $(BIN)/pytest -n 2 --dist worksteal -m "not alone"; tests=$$?; wait $$types && exit $$tests
	$(BIN)/pytest -m alone

test-aarch64: $(READY)  ## the agent on an emulated aarch64 processor, its tests and a ring with x86-64: needs root, debootstrap, qemu
	$(BIN)/python tests/aarch64/prove.py

test-boards: $(READY)  ## runs over emulated boards and everything that may happen to them: needs root
	$(BIN)/pytest tests/boards

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-ring: $(READY)  ## the ring against its bounds and against torch.distributed's own all-reduce
	$(BIN)/python benchmarks/ring.py

bench-links: $(READY)  ## rate, delay, jitter and loss of links over both backends against what was asked
	$(BIN)/python benchmarks/links.py

bench-namespaces: $(READY)  ## networks of namespaces: set-up, payload over their links, Gloo's own all-reduce
	$(BIN)/python benchmarks/namespaces.py

bench-worlds: $(READY)  ## one all-reduce by formula, by SimGrid, and in all three worlds
	$(BIN)/python benchmarks/worlds.py

bench-relay: $(READY)  ## packets through the relay: rate, delay, jitter, its share of a core
	$(BIN)/python benchmarks/relay.py

bench-ddp: $(READY)  ## a plain DDP script with PyTorch's hooks beside the compressors, over the same links
	$(BIN)/python benchmarks/ddp_beside.py

bench-compression: $(READY)  ## every compressor: time beside copying, bits beside the entropy bound, memory, overlap
	$(BIN)/python benchmarks/compression.py

fuzz: $(READY)  ## 100,000 payloads changed by chance or malice, decoded
	$(BIN)/python benchmarks/fuzz.py

fuzz-api: $(READY)  ## the daemon's API against its own description, by schemathesis in an environment of its own
	$(BIN)/python -m venv .venv/fuzz
	.venv/fuzz/bin/pip install --quiet --disable-pip-version-check 'schemathesis==4.32.5'
	$(BIN)/python benchmarks/fuzz_api.py --program $(CURDIR)/.venv/fuzz/bin/schemathesis

bench-boards: $(READY)  ## two dozen emulated boards: enrolment, a run, what their daemons take at rest; needs root
	$(BIN)/python benchmarks/boards.py --write

bench-overlap: $(READY)  ## how much of a transfer vanishes behind backward
	$(BIN)/python benchmarks/overlap.py

bench-clocks: $(READY)  ## what a step takes under the wall clock and under the virtual one
	$(BIN)/python benchmarks/clocks.py

bench-detection: $(READY)  ## accuracy, bytes and time of dense, GCC and NSI over seeds, beside the controls
	$(BIN)/python benchmarks/detection.py

bench-orbit: $(READY)  ## CPU time of contact plans, large and small
	$(BIN)/python benchmarks/orbit.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -c "import hypothesis, pytest, torch._dynamo, edgesim.figures, edgesim.run"  # compiles what is used
	touch $(READY)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
