# Everything runs in .venv, which is made when it is missing or when its requirements change.
PYTHON ?= python3
BIN := .venv/bin
HOW := -n 2 --dist worksteal
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q $(HOW)
# The tests that compute: what they find must not depend on the processor.
NUMERICAL := tests/bptt tests/equivalence tests/models

.PHONY: train test proof test-processors narrow-vectors two-threads no-compiler lint explore
train: .venv/ready
	$(BIN)/python train.py --config configs/lstm.yaml

explore: .venv/ready
	newest=$$(ls -t runs/*/*/checkpoints/best.ckpt 2>/dev/null | head -n 1); \
	$(BIN)/python explore.py --checkpoint "$${newest:-runs/lstm/version_0/checkpoints/best.ckpt}"

test: .venv/ready
	$(PYTEST) -m "not slow"

# What takes long by nature: processes and kills, 700 examples of each property, Triton's interpreter.
proof: .venv/ready
	$(PYTEST) --hypothesis-profile proof -m "slow or hypothesis"

# The numerical tests as other processors would run them.
test-processors: narrow-vectors two-threads no-compiler

narrow-vectors: .venv/ready
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE $(PYTEST) -m "not slow" $(NUMERICAL)

two-threads: .venv/ready
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OMP_NUM_THREADS=2 \
	$(BIN)/pytest -q -m "not slow" $(NUMERICAL)

no-compiler: .venv/ready
	CXX=no-such-compiler $(PYTEST) -m "not slow" $(NUMERICAL) tests/test_scripts.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
