# The suite's commands, in the order a newcomer needs them. `make` alone lists them.
# Every stage prints the command it runs; each can be typed by hand just as well.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
DATA ?= data
RUNS ?= runs/mini
PRETRAIN ?= runs/pretrain
STUDIES ?= runs/ablate
JOBS ?= 1

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STVG := $(BIN)/python -m stvg_nst

# The embedded benchmark over cached features of the frozen encoders, and the miniature with its shipped weights.
FEATURES := $(DATA)/features/mini
MINI := $(foreach part,base data/mini_cached model/mini model/mini_weights,--config experiments/$(part).yaml) \
  --data.init_args.root $(DATA) --data.init_args.features $(FEATURES)
# Its grounding model in the making: a stage, and the weights that it starts from.
PRETRAIN_FEATURES := $(DATA)/features/pretrain
stage = $(foreach part,base model/mini pretrain/$(1),--config experiments/$(part).yaml) \
  --data.init_args.root $(DATA) --data.init_args.features $(PRETRAIN_FEATURES) --model.weights $(PRETRAIN)/$(2)
GROUNDING := $(call stage,grounding,encoders/encoders.safetensors)
BOXES := $(call stage,boxes,grounding/grounder.safetensors)
POLISH := $(call stage,polish,boxes/grounder.safetensors)

# The main process only: PyTorch gives each worker of a loader one thread of its own accord.
export OMP_NUM_THREADS ?= 2

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------------------------------------- environment
# The stamp is written last, so that a killed installation is taken up again; pip skips what is already there.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("stvg_nst needs Python 3.11 or newer, but " \
	  "$(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

# ------------------------------------------------------------------------------------------------- training
# One file per stage: kill `make train` anywhere, run it again, and it goes on behind the last finished stage.
# A finished stage is not repeated when a config changes; give the new run a folder of its own (make train RUNS=...).
.PHONY: train
train: $(RUNS)/zero-shot/results.json $(RUNS)/nst/results.json  ## tune on the embedded benchmark, compare with zero-shot
	$(STVG) report $(RUNS)

$(FEATURES)/test/index.json: | $(STAMP)
	$(STVG) cache $(MINI) --config experiments/tuner/zero_shot.yaml

$(RUNS)/zero-shot/results.json: | $(FEATURES)/test/index.json
	$(STVG) test $(MINI) --config experiments/tuner/zero_shot.yaml --run $(@D)

$(RUNS)/nst/adapter.safetensors: | $(FEATURES)/test/index.json
	$(STVG) fit $(MINI) --config experiments/tuner/nst.yaml --run $(@D) --ckpt_path last

$(RUNS)/nst/results.json: $(RUNS)/nst/adapter.safetensors $(RUNS)/zero-shot/results.json
	$(STVG) test $(MINI) --config experiments/tuner/nst.yaml --run $(@D) \
	  --model.adapter $(RUNS)/nst/adapter.safetensors --model.baseline $(RUNS)/zero-shot/results.json

# Every run is kept: kill a study anywhere, run it again, and it goes on. QUICK=1 cuts it short, JOBS=2 runs two at once.
ABLATIONS := components nullity gate rank
.PHONY: $(ABLATIONS:%=ablate-%)
$(ABLATIONS:%=ablate-%): ablate-%: experiments/ablate/%.yaml | $(FEATURES)/test/index.json
	$(STVG) study $< --runs $(STUDIES)/$* --data $(DATA) --features $(FEATURES) --jobs $(JOBS) $(if $(QUICK),--quick)

ablate-components:  ## Table III: which part restores, which preserves (75 min on 2 cores; QUICK=1: 15)
ablate-nullity:  ## Table IV: layers of high, low and random nullity
ablate-gate:  ## is it the gate or the null space
ablate-rank:  ## how many directions a layer needs, and a tolerance on square layers

# What the tuners' settings were chosen by, on the validation split.
SEARCHES := placement
.PHONY: $(SEARCHES:%=search-%)
$(SEARCHES:%=search-%): search-%: experiments/search/%.yaml | $(FEATURES)/test/index.json
	$(STVG) study $< --runs runs/search/$* --data $(DATA) --features $(FEATURES) --jobs $(JOBS) $(if $(QUICK),--quick)

search-placement:  ## where to insert null-space tuning, by the validation split

.PHONY: pretrain
pretrain: $(PRETRAIN)/test/results.json  ## train the miniature grounder that the package ships, from scratch
	$(STVG) report $(PRETRAIN)

$(PRETRAIN)/encoders/encoders.safetensors: | $(STAMP)
	$(STVG) encoders --config experiments/pretrain/encoders.yaml --config experiments/model/mini.yaml \
	  --data.root $(DATA) --model.output $@ --trainer.logger.init_args.save_dir $(@D)

$(PRETRAIN_FEATURES)/val/index.json: $(PRETRAIN)/encoders/encoders.safetensors
	$(STVG) cache $(GROUNDING) --splits '[train, val]'

$(PRETRAIN)/grounding/adapter.safetensors: | $(PRETRAIN_FEATURES)/val/index.json
	$(STVG) grounding $(GROUNDING) --run $(@D) --ckpt_path last

$(PRETRAIN)/grounding/grounder.safetensors: $(PRETRAIN)/grounding/adapter.safetensors
	$(STVG) export $(GROUNDING) --model.adapter $< --output $@ --precision single

$(PRETRAIN)/boxes/adapter.safetensors: $(PRETRAIN)/grounding/grounder.safetensors
	$(STVG) boxes $(BOXES) --run $(@D) --ckpt_path last

$(PRETRAIN)/boxes/grounder.safetensors: $(PRETRAIN)/boxes/adapter.safetensors
	$(STVG) export $(BOXES) --model.adapter $< --output $@ --precision single

$(PRETRAIN)/polish/adapter.safetensors: $(PRETRAIN)/boxes/grounder.safetensors
	$(STVG) boxes $(POLISH) --run $(@D) --ckpt_path last

$(PRETRAIN)/model.safetensors: $(PRETRAIN)/polish/adapter.safetensors
	$(STVG) export $(POLISH) --model.adapter $< --output $@

$(PRETRAIN)/test/results.json: $(PRETRAIN)/model.safetensors
	$(STVG) test $(foreach part,base data/mini model/mini tuner/zero_shot,--config experiments/$(part).yaml) \
	  --data.init_args.root $(DATA) --model.weights $< --run $(@D)

.PHONY: dashboard
dashboard: | $(STAMP)  ## watch the runs in TensorBoard
	$(BIN)/tensorboard --logdir $(RUNS)

# -------------------------------------------------------------------------------------------------- quality
.PHONY: test
test: | $(STAMP)  ## run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: test-all
test-all: | $(STAMP)  ## run all tests: the slow ones, and those that need a GPU where there is one
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ''

.PHONY: check
check: | $(STAMP)  ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: format
format: | $(STAMP)  ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench-tuning
bench-tuning: | $(STAMP)  ## measure what null-space tuning costs beside LoRA and the frozen model
	$(BIN)/python benchmarks/tuning.py

.PHONY: bench-evaluate
bench-evaluate: | $(STAMP)  ## measure how long 10,303 synthetic tubes take to evaluate
	$(BIN)/python benchmarks/evaluation.py

.PHONY: bench-data
bench-data: | $(STAMP)  ## measure what a clip costs from its file to the network, decoded and cached
	$(BIN)/python benchmarks/data.py

.PHONY: clean
clean:  ## remove caches and build products; runs/, data/ and .venv/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find stvg_nst datamodules callbacks tests -name __pycache__ -type d -prune -exec rm -rf {} +
