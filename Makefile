# The suite's commands, in the order a newcomer needs them. `make` alone lists them.
# Every target runs commands that you can also type by hand; `make -n TARGET` shows them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
DATA ?= data
# The miniature that `train` and `pretrain` use: mini, a CG-STVG, or tubedetr_mini.
MODEL ?= mini
# How `train` tunes it: an overlay of experiments/tuner/ that names its layers.
TUNER ?= nst_encoder
TUBEDETR := $(filter tubedetr%,$(MODEL))
RUNS ?= runs/$(MODEL)
PRETRAIN ?= runs/pretrain$(TUBEDETR:%=-%)
STUDIES ?= runs/ablate
COMPARE ?= runs/compare
JOBS ?= 1
SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
STVG := $(BIN)/python -m stvg_nst
# VERBOSE=1 shows the commands of `make train`, and all that the libraries say in them.
QUIETLY := $(if $(VERBOSE),,@)
SPEAKING := $(if $(VERBOSE),--verbose)
COMMA := ,
SPACE := $(subst ,, )
heading = @printf '\n%s\n' $(1)
# OUTPUT=FOLDER: where tables and figures go; without it, next to the runs.
TO_OUTPUT := $(if $(OUTPUT),--output $(OUTPUT))

# The embedded benchmark over cached features of the frozen encoders, and the miniature with its shipped weights.
FEATURES := $(DATA)/features/$(MODEL)
MINI := $(foreach part,base data/mini_cached model/$(MODEL) model/$(MODEL)_weights,--config experiments/$(part).yaml) \
  --data.init_args.root $(DATA) --data.init_args.features $(FEATURES)
TUNING := --config experiments/tuner/$(TUNER).yaml
# The stages of its pretraining: a stage, and the weights that it starts from.
PRETRAIN_FEATURES := $(DATA)/features/$(notdir $(PRETRAIN))
stage = $(foreach part,base model/$(MODEL) pretrain/$(1) $(if $(TUBEDETR),scope/tubedetr/whole_modules pretrain/$(MODEL)),--config experiments/$(part).yaml) --seed_everything $(SEED) \
  --data.init_args.root $(DATA) --data.init_args.features $(PRETRAIN_FEATURES) --model.weights $(PRETRAIN)/$(2)
GROUNDING := $(call stage,grounding,encoders/encoders.safetensors)
# The decoder of a TubeDETR learns nothing before the tokens know of boxes, so it goes without the second stage.
BOXES_START := $(if $(TUBEDETR),encoders/encoders,grounding/grounder).safetensors
BOXES := $(call stage,boxes,$(BOXES_START))
POLISH := $(call stage,polish,boxes/grounder.safetensors)

# For the main process only: PyTorch by itself gives each worker of a loader one thread.
export OMP_NUM_THREADS ?= 2
# Large pages for PyTorch's tensors, where Linux grants them on request: without them a training step on a CPU spends
# up to a fifth of its time on page faults (make bench-encodings).
export THP_MEM_ALLOC_ENABLE ?= 1
# Freed memory stays with the process, where the C library is glibc. The next step asks for as much again, and giving the
# pages back and taking them again costs up to 30 % of a step (docs/performance.md). 34359738368: never give back.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 34359738368

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------------------------------------- environment
# The stamp is written last, so that a killed installation is repeated; pip skips what is already there.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("stvg_nst needs Python 3.11 or newer, but " \
	  "$(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@[ -t 1 ] || quiet=--quiet; \
	  $(BIN)/python -m pip install $${quiet:-} --constraint constraints.txt --editable '.[dev]'
	@touch $@

# ------------------------------------------------------------------------------------------------- training
# One file per stage: kill `make train` at any time, run it again, and it continues after the last finished stage.
# A finished stage is not repeated when a config changes. Give the new run another folder (make train RUNS=...).
TUNED := $(RUNS)/$(TUNER)
.PHONY: train
train: $(RUNS)/zero-shot/results.json $(TUNED)/results.json  ## tune on the embedded benchmark, compare with zero-shot (TUNER=nst_paper: by another recipe; MODEL=tubedetr_mini)
	$(QUIETLY)$(STVG) report $(RUNS)
	@echo 'pictures of tubes: $(TUNED)/tubes.png; what happened inside: make dashboard'

$(FEATURES)/test/index.json: | $(STAMP)
	$(call heading,'1 of 4  render the benchmark$(COMMA) and store what the frozen encoders make of it (about 2 min on 2 cores)')
	$(QUIETLY)$(STVG) cache features $(MINI) --config experiments/tuner/zero_shot.yaml

$(RUNS)/zero-shot/results.json: | $(FEATURES)/test/index.json
	$(call heading,'2 of 4  test the frozen grounder on clean and degraded clips (about 1 min)')
	$(QUIETLY)$(STVG) test $(MINI) --config experiments/tuner/zero_shot.yaml --run $(@D) --table false $(SPEAKING)

# The frozen grounder's result on the validation split: the fit's dashboard compares with it.
ZERO_SHOT_VAL := $(RUNS)-zero-shot-val/results.json
$(ZERO_SHOT_VAL): | $(FEATURES)/test/index.json
	$(QUIETLY)$(STVG) test $(MINI) --config experiments/tuner/zero_shot.yaml --run $(@D) --table false $(SPEAKING) \
	  --data.init_args.evaluation_split val

$(TUNED)/adapter.safetensors: | $(FEATURES)/test/index.json $(ZERO_SHOT_VAL)
	$(call heading,'3 of 4  tune it ($(TUNER)) on 400 clips$(COMMA) some of them degraded (about 5 min)')
	$(QUIETLY)$(STVG) fit $(MINI) $(TUNING) --run $(@D) --ckpt_path last $(SPEAKING) \
	  --model.baseline $(ZERO_SHOT_VAL)

$(TUNED)/results.json: $(TUNED)/adapter.safetensors $(RUNS)/zero-shot/results.json
	$(call heading,'4 of 4  test the tuned grounder on the same clips (about 1 min)')
	$(QUIETLY)$(STVG) test $(MINI) $(TUNING) --run $(@D) --table false $(SPEAKING) \
	  --model.adapter $(TUNED)/adapter.safetensors --model.baseline $(RUNS)/zero-shot/results.json

# Every run is kept: kill a study at any time, run it again, and it continues. QUICK=1 cuts it short, JOBS=2 runs two at once.
ABLATIONS := components nullity gate rank
.PHONY: $(ABLATIONS:%=ablate-%)
$(ABLATIONS:%=ablate-%): ablate-%: experiments/ablate/%.yaml | $(FEATURES)/test/index.json
	$(STVG) study $< --runs $(STUDIES)/$* --data $(DATA) --features $(FEATURES) --jobs $(JOBS) $(if $(QUICK),--quick) $(TO_OUTPUT)

ablate-components:  ## Table III: which part restores, and which preserves (1 h on 2 cores; QUICK=1: 4 min)
ablate-nullity:  ## Table IV: layers of high, low and random nullity (40 min; QUICK=1: 3 min)
ablate-gate:  ## whether the gate or the null space matters (1 h 30 min; QUICK=1: 6 min)
ablate-rank:  ## how many directions a layer needs, and a tolerance on square layers (1 h; QUICK=1: 4 min)

# The searches that chose the tuners' settings, on the validation split.
SEARCHES := placement recipe
.PHONY: $(SEARCHES:%=search-%) search-lr
$(SEARCHES:%=search-%): search-%: experiments/search/%.yaml | $(FEATURES)/test/index.json
	$(STVG) study $< --runs runs/search/$* --data $(DATA) --features $(FEATURES) --jobs $(JOBS) $(if $(QUICK),--quick)

search-placement:  ## choose where to insert null-space tuning, on the validation split (35 min; QUICK=1: 6 min)
search-recipe:  ## which changes of the recipe are worth a search: gates by labels, whitened basis, clean twin (1 h on 2 cores; QUICK=1: 5 min)

# A quick search keeps its choice beside its runs. ONLY='decoder / *' searches for a part of the methods.
RATES := $(if $(QUICK),runs/search/lr-quick,experiments/compare)/learning_rates.yaml
TRIED := $(if $(QUICK),runs/search/lr-quick,docs/peers/learning-rates)/choices.csv
search-lr: experiments/search/lr.yaml | $(FEATURES)/test/index.json  ## choose the rate of every method from one grid, on val (20 h, JOBS=2; ONLY='decoder / *': 2 h 15 min; QUICK=1: 5 min)
	$(call study,$<,runs/search/lr,$(FEATURES)) $(TO_OUTPUT)
	$(STVG) choose $< --runs runs/search/lr --output $(RATES) --table $(TRIED) --overwrite \
	  $(if $(ONLY),--only '$(ONLY)') $(if $(QUICK),--quick)

# The methods on equal terms (docs/protocol.md), on two grounders and two draws of the test set. The second grounder takes part
# if it has been pretrained. ONLY='decoder / *' runs a part of them; the tables show what is there, and what is missing.
SECOND := runs/pretrain-1/model.safetensors
SECOND_FEATURES := $(DATA)/features/mini-1
SECOND_MINI := $(foreach part,base data/mini_cached model/mini model/mini_1_weights,--config experiments/$(part).yaml) \
  --data.init_args.root $(DATA) --data.init_args.features $(SECOND_FEATURES)
CACHES := $(FEATURES) $(if $(wildcard $(SECOND)),$(SECOND_FEATURES))
DRAWS := $(CACHES:%=%/test/index.json) $(if $(QUICK),,$(CACHES:%=%/test-benchmark1/index.json))
PEERS := experiments/compare/peers.yaml
only = $(if $(ONLY),--only '$(ONLY)')
study = $(STVG) study $(1) --runs $(2) --data $(DATA) --features $(3) --jobs $(JOBS) $(or $(4),$(only)) $(if $(QUICK),--quick)
TABLES := $(STVG) tables $(PEERS) --runs $(COMPARE)/peers --data $(DATA) --costs $(COMPARE)/cost.json \
  $(TO_OUTPUT) $(if $(QUICK),--quick)

$(SECOND_FEATURES)/test/index.json: | $(STAMP)
	$(STVG) cache features $(SECOND_MINI) --config experiments/tuner/zero_shot.yaml

$(FEATURES)/test-benchmark1/index.json: | $(STAMP)
	$(STVG) cache features $(MINI) --config experiments/tuner/zero_shot.yaml --data.init_args.benchmark_seed 1 --split test

$(SECOND_FEATURES)/test-benchmark1/index.json: | $(STAMP)
	$(STVG) cache features $(SECOND_MINI) --config experiments/tuner/zero_shot.yaml --data.init_args.benchmark_seed 1 --split test

# These methods of the second comparison name the same layers in both networks.
OF_TUBEDETR = $(foreach part,$(MODEL) $(MODEL)_weights,--config experiments/model/$(part).yaml) --only 'encoder_all / *'

.PHONY: budget compare table1 table2 fig2 fig3 robustness cost tables bench-peers curve-tuning-size curve-narrow
budget: | $(STAMP)  ## list adapted layers and trainable parameters of every method (10 s; MODEL=tubedetr_mini)
	$(STVG) budget $(if $(TUBEDETR),experiments/confirm/confirm.yaml $(OF_TUBEDETR),$(PEERS))

run-peers = $(call study,$(PEERS),$(COMPARE)/peers,$(DATA)/features)
compare: budget | $(DRAWS)  ## run every method whose rate was searched, 5 seeds (2 h a grounder, JOBS=2; ONLY='decoder / *': 1 h; QUICK=1: 10 min)
	$(run-peers)

# The tables are made even if a run has failed. They show it, and then the target fails.
tabulate = ran=0; $(run-peers) || ran=$$?; [ $$ran -le 1 ] && $(TABLES) $(1) && exit $$ran
table1: budget | $(DRAWS)  ## Table I: Mixed Quality by sentence type (as long as `compare`, like all down to `robustness`)
table2: budget | $(DRAWS)  ## Table II: the WAS by sentence type
fig2: budget | $(DRAWS)  ## Fig. 2: gain on LQ against drop on HQ
fig3: budget | $(DRAWS)  ## Fig. 3: frames, truth and answers of a typical clip of each quality
robustness: budget | $(DRAWS)  ## m_vIoU by kind and severity of degradation
table1 table2 fig2 fig3 robustness:
	$(call tabulate,--show $@)

cost: $(COMPARE)/cost.json  ## parameters, time and memory of every method (5 min)
	$(TABLES) --show cost

tables: budget $(COMPARE)/cost.json | $(DRAWS)  ## all tables and figures (OUTPUT=docs/peers: into another folder)
	$(call tabulate)

$(COMPARE)/cost.json: | $(STAMP)
	$(BIN)/python -m benchmarks.peers --output $@

bench-peers: | $(STAMP)  ## measure again what every method costs (5 min)
	$(BIN)/python -m benchmarks.peers --output $(COMPARE)/cost.json

curve-tuning-size: experiments/compare/tuning_size.yaml | $(FEATURES)/test/index.json  ## WAS against 25 to 400 tuning clips (3 h, JOBS=2; QUICK=1: 8 min)
	$(call study,$<,$(COMPARE)/tuning-size,$(FEATURES)) $(TO_OUTPUT)

curve-narrow: experiments/compare/narrow.yaml | $(FEATURES)/test/index.json  ## WAS of tuning sets that lack looks or actions (2 h 20 min, JOBS=2; QUICK=1: 8 min)
	$(call study,$<,$(COMPARE)/narrow,$(FEATURES)) $(TO_OUTPUT)

# The second comparison (docs/confirmation.md): searches on one half of the validation split write down what they choose. You
# commit this, and `confirm` tests it on clips that nothing has seen. JOBS=2 runs two at once. The five methods of the primary
# comparisons come first; ALL=1 adds the other ten. MODEL=tubedetr_mini: rates, twins and confirm on the second network, four methods.
CONFIRM := runs/confirm$(TUBEDETR:%=-%)
CONFIRM_STUDIES := experiments/confirm$(if $(TUBEDETR),/tubedetr)
CONFIRM_DOCS := docs/confirm$(if $(TUBEDETR),/tubedetr)
CONFIRM_DRAWS := $(if $(TUBEDETR),confirm-benchmark2,confirm confirm-benchmark1)
CONFIRM_FEATURES := $(FEATURES)/test/index.json $(if $(QUICK),,$(CONFIRM_DRAWS:%=$(FEATURES)/%/index.json))
LEFT_OUT_FEATURES := $(DATA)/features/mini-5
CONFIRM_SEARCHES := rates twins gates
MAIN := 'whole / Full FT' 'encoder_all / LoRA' 'encoder_all / Switch' 'encoder_all / Gated adapter' 'encoder_all / NST'
confirm-gates: MAIN := 'encoder_all / Gated adapter' 'encoder_all / NST'
methods = $(or $(only),$(if $(ALL)$(QUICK)$(TUBEDETR),,--only $(MAIN)))
.PHONY: $(CONFIRM_SEARCHES:%=confirm-%) confirm-parts confirm-left-out confirm-unannotated confirm-more-twins confirm-tuning-size confirm-unseen confirm
$(CONFIRM_SEARCHES:%=confirm-%): confirm-%: $(CONFIRM_STUDIES)/%.yaml | $(FEATURES)/test/index.json
	$(call study,$<,$(CONFIRM)/$*,$(FEATURES),$(methods))
	$(STVG) choose $< --runs $(CONFIRM)/$* --overwrite $(methods) $(if $(QUICK),--quick) \
	  --output $(if $(QUICK),$(CONFIRM)/$*-quick,$(CONFIRM_STUDIES))/chosen_$*.yaml \
	  --table $(if $(QUICK),$(CONFIRM)/$*-quick,$(CONFIRM_DOCS))/$*.csv

confirm-rates:  ## second comparison: the rate of every method, on the search half (about 1 h, JOBS=2; ALL=1: 2 h 30 min)
confirm-twins:  ## then the weight of the clean twin, for five methods (about 1 h, JOBS=2)
confirm-gates:  ## then soft or hard gates (about 15 min, JOBS=2)

confirm-parts: $(CONFIRM_STUDIES)/parts.yaml | $(FEATURES)/test/index.json  ## what each part of NST is good for, on the ablation half (about 1 h, JOBS=2)
	$(call study,$<,$(CONFIRM)/parts,$(FEATURES)) $(TO_OUTPUT)

confirm-left-out: $(CONFIRM_STUDIES)/left_out.yaml | $(LEFT_OUT_FEATURES)/val-matrix/index.json  ## a kind that training leaves out, on the ablation half (about 45 min, JOBS=2)
	$(call study,$<,$(CONFIRM)/left-out,$(LEFT_OUT_FEATURES)) $(TO_OUTPUT)

confirm-unannotated: $(CONFIRM_STUDIES)/unannotated.yaml | $(FEATURES)/test/index.json  ## tuning clips that nobody has annotated, on the ablation half (about 25 min, JOBS=2)
	$(call study,$<,$(CONFIRM)/unannotated,$(FEATURES)) $(TO_OUTPUT)

confirm-more-twins: $(CONFIRM_STUDIES)/more_twins.yaml | $(FEATURES)/test/index.json  ## the twin for the ten methods that have none by the plan, on the ablation half (about 30 min, JOBS=2)
	$(call study,$<,$(CONFIRM)/more-twins,$(FEATURES)) $(TO_OUTPUT)

confirm-tuning-size: $(CONFIRM_STUDIES)/tuning_size.yaml | $(FEATURES)/test/index.json  ## the recipe with 25 to 400 tuning clips, on the ablation half (about 45 min, JOBS=2)
	$(call study,$<,$(CONFIRM)/tuning-size,$(FEATURES)) $(TO_OUTPUT)

confirm-unseen: $(CONFIRM_STUDIES)/unseen.yaml | $(FEATURES)/val-unseen/index.json  ## kinds that no training sees, on the ablation half (about 15 min, JOBS=2)
	$(call study,$<,$(CONFIRM)/unseen,$(FEATURES)) $(TO_OUTPUT)

confirm: $(CONFIRM_STUDIES)/confirm.yaml | $(CONFIRM_FEATURES)  ## the committed list, on the confirmation split (about 1 h, JOBS=2; ALL=1: 3 h; QUICK=1: 5 min, on val)
	$(call study,$<,$(CONFIRM)/confirm,$(FEATURES),$(methods))
	$(STVG) tables $< --runs $(CONFIRM)/confirm --data $(DATA) --show primary table1 table2 fig2 robustness \
	  $(methods) $(TO_OUTPUT) $(if $(QUICK),--quick)

confirm-cache = $(STVG) cache features $(MINI) --config experiments/tuner/zero_shot.yaml --split confirm \
  --data.init_args.confirmation $(CONFIRM_STUDIES)/confirm.yaml

$(FEATURES)/confirm/index.json: | $(STAMP)
	$(confirm-cache)

$(FEATURES)/confirm-benchmark%/index.json: | $(STAMP)
	$(confirm-cache) --data.init_args.benchmark_seed $*

$(FEATURES)/val-unseen/index.json: | $(FEATURES)/test/index.json
	$(STVG) cache features $(MINI) --config experiments/tuner/zero_shot.yaml --split val \
	  --data.init_args.evaluation_split val --data.init_args.evaluation_conditions unseen

$(LEFT_OUT_FEATURES)/val-matrix/index.json: | $(STAMP)
	$(STVG) cache features $(MINI) --config experiments/tuner/zero_shot.yaml --split train val \
	  --data.init_args.features $(LEFT_OUT_FEATURES) --data.init_args.variants 5 \
	  --data.init_args.evaluation_split val --data.init_args.evaluation_conditions matrix

# The paper's experiments on the real data (docs/paper_experiments.md), in parts, each resumed where it was: first the scores
# that the released grounder must reach, then the rates, then the tables. PART=vidstg or PART=vidstg/peers: a part of them.
# QUICK=1: all of it on made-up data, by the miniature. HARDWARE=h100_80gb: batches for a card; ENGINE='--engine ray ...'.
PAPER := runs/paper
PAPER_PARTS := hcstvg_v1/zero_shot hcstvg_v2/zero_shot vidstg/zero_shot vidstg/rates vidstg/peers \
  hcstvg_v1/rates hcstvg_v1/components hcstvg_v1/nullity \
  hcstvg_v2/rates hcstvg_v2/peers hcstvg_v2/components hcstvg_v2/nullity
PAPER_SETS := hcstvg_v1 hcstvg_v2 vidstg
# Other targets use PART too, so it is checked only where parts of the paper are asked for.
parts_named = $(strip $(foreach part,$(PART),$(or $(filter $(part) $(part)/%,$(PAPER_PARTS)),$(error PART=$(part) is none of $(PAPER_PARTS)))))
CHOSEN_PARTS := $(if $(and $(PART),$(filter paper%,$(MAKECMDGOALS))),$(parts_named),$(PAPER_PARTS))
THROUGHPUT := $(PAPER)/throughput.yaml
SYNTHETIC := $(DATA)/synthetic
paper-studies = $(CHOSEN_PARTS:%=experiments/paper/%.yaml)
paper-study = $(STVG) study experiments/paper/$(1).yaml --runs $(PAPER)/$(1) --jobs $(JOBS) $(if $(QUICK),--quick) $(ENGINE)
paper-hardware = $(if $(QUICK),,$(HARDWARE:%=--hardware experiments/hardware/%.yaml))
# A study without a search before it would leave all of its points out.
paper-only = $(if $(QUICK),--only '*')
.PHONY: paper paper-check $(PAPER_PARTS:%=paper/%)
paper: $(CHOSEN_PARTS:%=paper/%)  ## the paper's experiments on the real data, in parts (PART=vidstg/peers; QUICK=1: made-up data)
	@echo 'tables and figures: $(PAPER)/*/'

paper-check: | $(STAMP)  ## what the paper's experiments lack on this machine, and their GPU-hours (10 s; PART=...)
	$(STVG) workload $(paper-studies) --throughput $(THROUGHPUT)
	$(STVG) doctor $(paper-studies) $(paper-hardware)

$(PAPER_SETS:%=$(SYNTHETIC)/%/SYNTHETIC): $(SYNTHETIC)/%/SYNTHETIC: | $(STAMP)
	$(STVG) data synthetic $* $(@D)
	$(STVG) data verify $* $(@D) --subset

# Each part after the one before it, and all after the check: rates come before the tables that need them.
$(PAPER_PARTS:%=paper/%): | $(if $(QUICK),$(PAPER_SETS:%=$(SYNTHETIC)/%/SYNTHETIC),paper-check)
$(PAPER_SETS:%=paper/%/zero_shot): paper/%:
	$(call paper-study,$*)

$(PAPER_SETS:%=paper/%/rates): paper/%:
	$(call paper-study,$*) $(paper-hardware)
	$(STVG) choose experiments/paper/$*.yaml --runs $(PAPER)/$* --overwrite $(if $(QUICK),--quick) \
	  --output $(if $(QUICK),$(PAPER)/$*-quick,experiments/paper/$(*D))/learning_rates.yaml --table $(PAPER)/$*$(if $(QUICK),-quick)/choices.csv

paper/vidstg/peers paper/hcstvg_v2/peers: paper/%:
	$(call paper-study,$*) $(paper-hardware) $(paper-only)
	$(STVG) tables experiments/paper/$*.yaml --runs $(PAPER)/$* --show table1 table2 fig2 fig3 robustness $(if $(QUICK),--quick)

$(foreach set,hcstvg_v1 hcstvg_v2,paper/$(set)/components paper/$(set)/nullity): paper/%:
	$(call paper-study,$*) $(paper-hardware) $(paper-only)

# What the tables of a comparison are made of, without the runs' weights, logs and tubes. Unpack it in another checkout
# (tar -xkf FILE): the tables are the same, and studies continue from there. RESULTS=FILE: into another file.
KEPT := results.json point.yaml settings.yaml weights.sha256 diverged.txt
RUNS_OF_peers := runs/search/lr $(COMPARE)/peers $(STUDIES)
RUNS_OF_confirm := $(CONFIRM)
FILE_OF_peers := docs/peers/results.tar.xz
FILE_OF_confirm := $(CONFIRM_DOCS)/results.tar.xz
packed = $(or $(wildcard $(RUNS_OF_$*)),$(error there are no runs below $(RUNS_OF_$*)))
.PHONY: pack-peers pack-confirm
pack-peers:  ## pack the first comparison's searches and runs into one small file, docs/peers/results.tar.xz
pack-confirm:  ## pack those of the second one into docs/confirm/results.tar.xz (MODEL=tubedetr_mini: docs/confirm/tubedetr/)
pack-peers pack-confirm: pack-%:
	find $(packed) -type f \( -false $(KEPT:%=-o -name %) \) | LC_ALL=C sort | tar -cJf $(or $(RESULTS),$(FILE_OF_$*)) -T -

.PHONY: pretrain
pretrain: $(PRETRAIN)/test/results.json  ## train a miniature grounder that the package ships, from scratch (MODEL=tubedetr_mini)
	$(STVG) report $(PRETRAIN)

$(PRETRAIN)/encoders/encoders.safetensors: | $(STAMP)
	$(STVG) encoders --config experiments/pretrain/encoders.yaml --config experiments/model/$(MODEL).yaml \
	  --seed_everything $(SEED) --data.root $(DATA) --model.output $@ --trainer.logger.init_args.save_dir $(@D)

$(PRETRAIN_FEATURES)/val/index.json: $(PRETRAIN)/encoders/encoders.safetensors
	$(STVG) cache features $(GROUNDING) --split train val

$(PRETRAIN)/grounding/adapter.safetensors: | $(PRETRAIN_FEATURES)/val/index.json
	$(STVG) grounding $(GROUNDING) --run $(@D) --ckpt_path last

$(PRETRAIN)/grounding/grounder.safetensors: $(PRETRAIN)/grounding/adapter.safetensors
	$(STVG) export $(GROUNDING) --model.adapter $< --output $@ --precision single

$(PRETRAIN)/boxes/adapter.safetensors: $(PRETRAIN)/$(BOXES_START) | $(PRETRAIN_FEATURES)/val/index.json
	$(STVG) boxes $(BOXES) --run $(@D) --ckpt_path last

$(PRETRAIN)/boxes/grounder.safetensors: $(PRETRAIN)/boxes/adapter.safetensors
	$(STVG) export $(BOXES) --model.adapter $< --output $@ --precision single

$(PRETRAIN)/polish/adapter.safetensors: $(PRETRAIN)/boxes/grounder.safetensors
	$(STVG) boxes $(POLISH) --run $(@D) --ckpt_path last

$(PRETRAIN)/model.safetensors: $(PRETRAIN)/polish/adapter.safetensors
	$(STVG) export $(POLISH) --model.adapter $< --output $@

$(PRETRAIN)/test/results.json: $(PRETRAIN)/model.safetensors
	$(STVG) test $(foreach part,base data/mini model/$(MODEL) tuner/zero_shot,--config experiments/$(part).yaml) \
	  --data.init_args.root $(DATA) --model.weights $< --run $(@D)

$(DEMO_STAMP): pyproject.toml constraints.txt | $(STAMP)
	@[ -t 1 ] || quiet=--quiet; \
	  $(BIN)/python -m pip install $${quiet:-} --constraint constraints.txt --editable '.[demo]'
	@touch $@

.PHONY: demo
demo: | $(DEMO_STAMP)  ## serve a web page: spoil a clip, and see what NST does (PORT=7860)
	$(STVG) demo $(dir $(RUNS)) --data $(DATA) $(if $(PORT),--port $(PORT))

.PHONY: dashboard
dashboard: | $(STAMP)  ## watch the runs of `make train` in TensorBoard (RUNS=runs/compare: of a study)
	@echo 'does it restore, does it forget: http://localhost:$(or $(PORT),6006)/#custom_scalars&_smoothingWeight=0'
	$(BIN)/tensorboard --logdir $(RUNS) --port $(or $(PORT),6006)

# -------------------------------------------------------------------------------------------------- quality
# MODEL=tubedetr: that instead of CG-STVG at full size.
BENCHED := $(if $(TUBEDETR),--model experiments/model/$(MODEL).yaml --scope experiments/scope/tubedetr/both.yaml)
# A process for each core, one thread each. A file's tests stay together, because they share what is costly to make. Files keep
# the order of tests/conftest.py.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: test
test: | $(STAMP)  ## run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

.PHONY: test-all
test-all: | $(STAMP)  ## run all tests: the slow ones, and those that need a GPU where there is one
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m ''

.PHONY: test-gpu
test-gpu: | $(STAMP)  ## compare a GPU with the CPU: answers, gradients, half precision, DDP, a resumed run (2 min)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu

.PHONY: check
check: | $(STAMP)  ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: format
format: | $(STAMP)  ## fix lint and formatting where a tool can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench-tuning
bench-tuning: | $(STAMP)  ## measure what null-space tuning costs, compared with LoRA and the frozen model (SCOPE=FILE: in other layers)
	$(BIN)/python -m benchmarks.tuning $(if $(SCOPE),--scope $(SCOPE))

.PHONY: bench-encodings
bench-encodings: | $(STAMP)  ## measure what kept encodings save where only the decoders are tuned
	$(BIN)/python -m benchmarks.encodings

.PHONY: bench-attention
bench-attention: | $(STAMP)  ## compare the box decoder's attention to its frames with its textbook form
	$(BIN)/python -m benchmarks.attention

.PHONY: bench-model
bench-model: | $(STAMP)  ## measure the full-size model by stage, and compute what fits a card (6 min on 2 cores; MODEL=tubedetr)
	$(BIN)/python -m benchmarks.model $(BENCHED)

.PHONY: bench-gpu
bench-gpu: | $(STAMP)  ## measure the full-size model on a GPU, each part within 5 minutes (PART='stages memory tuning inference options kernels')
	$(BIN)/python -m benchmarks.gpu $(BENCHED) $(if $(PART),--part $(PART)) $(if $(TUBEDETR),,--throughput $(THROUGHPUT)) \
	  --output runs/bench-gpu/$(TUBEDETR:%=%-)$(subst $(SPACE),-,$(or $(PART),all)).json

.PHONY: bench-epoch
bench-epoch: | $(FEATURES)/test/index.json  ## compare a measured epoch, of one process and of two, with the cost model (5 min)
	$(BIN)/python -m benchmarks.epochs --data $(DATA)

.PHONY: bench-evaluate
bench-evaluate: | $(STAMP)  ## measure how long 10,303 synthetic tubes take to evaluate
	$(BIN)/python benchmarks/evaluation.py

.PHONY: bench-data
bench-data: | $(STAMP)  ## measure what a clip costs on its way from the file to the network, decoded and cached
	$(BIN)/python benchmarks/data.py

.PHONY: bench-reading
bench-reading: | $(STAMP)  ## measure how long annotations and cached features take to read
	$(BIN)/python -m benchmarks.reading

.PHONY: bench-long
bench-long: | $(STAMP)  ## measure how the answer is found in a long film
	$(BIN)/python -m benchmarks.long_films

.PHONY: clean
clean:  ## remove caches and build products; runs/, data/ and .venv/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find stvg_nst datamodules callbacks tests -name __pycache__ -type d -prune -exec rm -rf {} +
