# Everything happens in .venv; nothing else on the machine is touched.
PYTHON ?= python3
TORCH ?= torch==2.13.0# pinned: an unpinned torch brings gigabytes of CUDA; make demo TORCH=torch takes it
BIN := .venv/bin
READY := .venv/ready

# Installs what a target needs besides; the kernels are there already.
EXTRA := FLOWMATCH_KERNELS=none $(BIN)/pip install -q -e

.PHONY: demo test lint docs bench wheel cross sass gpu clean

demo: $(READY)
	MPLBACKEND=agg $(BIN)/python demos/flow_of_a_clip.py
	@echo "video: demo_out/estimate/flow.mp4"

# A process per core, each with one thread: threads that wait for work spin in each other's way.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

lint: $(READY)
	$(EXTRA) ".[lint]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*' 'tests/emulator/*.cpp' 'tests/emulator/*.h' 'tests/cross/*.cpp')

# The site, in build/docs: runs all demos for the gallery, needs no network. GALLERY=0 skips the demos.
GALLERY ?= 1
docs: $(READY)
	$(EXTRA) ".[docs]"
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -q -W --keep-going -b html -D plot_gallery=$(GALLERY) docs build/docs
	@echo "documentation: build/docs/index.html"

bench: $(READY)
	$(EXTRA) ".[bench]"
	$(BIN)/flowmatch bench all --json benchmarks/results/cpu.json --html build/bench.html

# One wheel, in build/wheels, for every Python >= 3.10 on Linux with a processor of this kind. Its
# CPU kernels load into torch >= 2.11. PyTorch's libraries stay outside; the tag says which glibc.
wheel: $(READY)
	$(EXTRA) ".[wheel]"
	rm -rf build/lib* build/wheel build/wheels
	FLOWMATCH_KERNELS=cpu $(BIN)/pip wheel -q --no-deps --no-build-isolation -w build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair --strip --exclude 'libtorch*' --exclude 'libc10*' \
		-w build/wheels build/wheel/*.whl

# The CPU kernels compiled by clang, for x86-64 and ARM, against the references. Programs for another
# processor run under qemu-user, where that is installed.
cross: $(READY)
	$(EXTRA) ".[cross]"
	$(BIN)/python -m pytest -q -m cross tests/cross

# The CUDA kernels compiled for GPUs, and their instructions counted, against the budgets of
# tests/sass/budget.txt. CUDA_HOME names the toolkit; no GPU is needed.
sass: $(READY)
	$(EXTRA) ".[sass]"
	$(BIN)/python -m tests.sass

# On a machine with a GPU: needs no network and no venv. CUDA_HOME names the toolkit.
gpu:
	FLOWMATCH_KERNELS=cuda $(PYTHON) setup.py build_ext --inplace
	$(PYTHON) -m pytest -q -m gpu tests/ops tests/flow
	$${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer --error-exitcode 1 $(PYTHON) -m pytest -q -m gpu tests/ops -k "reference"
	$(PYTHON) -m flowmatch bench all --device cuda --json benchmarks/results/cuda-float32.json
	$(PYTHON) -m flowmatch bench all --device cuda --dtype bfloat16 --json benchmarks/results/cuda-bfloat16.json
	$(PYTHON) benchmarks/model.py benchmarks/results/cuda-float32.json benchmarks/results/cuda-bfloat16.json

clean:
	rm -rf .venv build *.egg-info flowmatch/_C*.so demo_out demos/demo_out docs/gallery docs/weights docs/api/*.rst

$(READY): pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*)
	@echo "setting up .venv: downloads PyTorch, compiles the kernels"
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e ".[test]"
	touch $@
