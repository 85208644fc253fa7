# Everything happens in .venv; nothing else on the machine is touched.
PYTHON ?= python3
TORCH ?= torch==2.13.0# pinned: an unpinned torch brings gigabytes of CUDA; make demo TORCH=torch takes it
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint docs bench gpu clean

demo: $(READY)
	MPLBACKEND=agg $(BIN)/python demos/flow_of_a_clip.py
	@echo "video: demo_out/estimate/flow.mp4"

# A process per core, each with one thread: threads that wait for work spin in each other's way.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

lint: $(READY)
	$(BIN)/pip install -q -e ".[lint]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*' 'tests/emulator/*.cpp' 'tests/emulator/*.h')

# The site, in build/docs: runs all demos for the gallery, needs no network. GALLERY=0 skips the demos.
GALLERY ?= 1
docs: $(READY)
	$(BIN)/pip install -q -e ".[docs]"
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -q -W --keep-going -b html -D plot_gallery=$(GALLERY) docs build/docs
	@echo "documentation: build/docs/index.html"

bench: $(READY)
	$(BIN)/pip install -q -e ".[bench]"
	$(BIN)/flowmatch bench all --json benchmarks/results/cpu.json --html build/bench.html

# On a machine with a GPU: needs no network and no venv. CUDA_HOME names the toolkit.
gpu:
	FLOWMATCH_KERNELS=cuda $(PYTHON) setup.py build_ext --inplace
	$(PYTHON) -m pytest -q -m gpu tests/ops tests/flow
	$${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer --error-exitcode 1 $(PYTHON) -m pytest -q -m gpu tests/ops -k "reference"
	$(PYTHON) -m flowmatch bench all --device cuda --json benchmarks/results/cuda-float32.json
	$(PYTHON) -m flowmatch bench all --device cuda --dtype bfloat16 --json benchmarks/results/cuda-bfloat16.json

clean:
	rm -rf .venv build *.egg-info flowmatch/_C*.so demo_out demos/demo_out docs/gallery docs/weights docs/api/*.rst

$(READY): pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*)
	@echo "setting up .venv: downloads PyTorch, compiles the kernels"
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e ".[test]"
	touch $@
