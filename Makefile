# Everything runs in .venv, which is made when it is missing or when its requirements change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint explore
train: .venv/ready
	$(BIN)/python train.py --config configs/lstm.yaml

explore: .venv/ready
	newest=$$(ls -t runs/*/*/checkpoints/best.ckpt 2>/dev/null | head -n 1); \
	$(BIN)/python explore.py --checkpoint "$${newest:-runs/lstm/version_0/checkpoints/best.ckpt}"

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
