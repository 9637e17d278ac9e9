# Every target first makes the environment in .venv and is then a thin line over `sixfold`, `pytest` or a linter.
#
#   make all-formats [MODEL=folder-or-hub-id] [OUT=folder] [NAME=name] [SET="key=value ..."] [ENGINE=ray [ADDRESS=host:port]]
#   make format FORMAT=awq [MODEL=...] [OUT=...] [NAME=...] [SET=...]
#   make format FORMAT=gguf-auto FIT=96gb-mac CONTEXT=32k | BITS=4.5 | BYTES=84GB [MODEL=...]
#   make verify [MODEL=...] [OUT=...] [NAME=...]
#   make evaluate ARTIFACT=folder-or-file.gguf [BASELINE=folder-or-file.gguf] [OPTIONS="--max-tokens 2048 --task humaneval"]
#   make report [MODEL=...] [OUT=...] [NAME=...]
#   make publish ORG=my-lab [MODEL=...] [VARIANT="awq gguf"] [OUT=...] [NAME=...] [OPTIONS="--dry-run --public --release --yes"]
#   make prune RATIO=0.4 | KEEP=154 [HEAL=1] [MODEL=...] [OUT=the pruned folder] [NAME=...] [SET="calibration.key=value ..."]
#   make test | test-processors | test-engines | bench | real-size | lint | clean-env
#
# PYTHON=python3.12   the interpreter of a new environment (3.11 to 3.13)
# TORCH=cpu           PyTorch without CUDA (the default on Linux); cu126, cu130, ... name a CUDA build of pytorch.org;
#                     pypi takes what PyPI serves (the default elsewhere; on Linux that is CUDA, gigabytes);
#                     skip uses the PyTorch that PYTHON already has

SHELL := bash
.DEFAULT_GOAL := help

MODEL ?= demo/minimax-m2-4.6m-REAP-6
OUT ?= artifacts
PYTHON ?=
DEFAULT_TORCH := $(if $(filter Linux,$(shell uname -s)),cpu,pypi)

VENV := .venv
BIN := $(VENV)/bin
# Values may have spaces: sixfold finds where the next key begins.
SETTINGS := $(if $(SET),--set-all '$(subst ','\'',$(SET))')
# The budget of gguf-auto.
BUDGET := $(if $(FIT),--set 'budget.fits=$(FIT)' $(if $(CONTEXT),--set 'budget.context=$(CONTEXT)'),$(if $(BYTES),--set 'budget.bytes=$(BYTES)',$(if $(BITS),--set 'budget.bits=$(BITS)')))
EXPORT_OPTIONS := --out "$(OUT)" $(if $(NAME),--name "$(NAME)") $(SETTINGS) $(if $(ENGINE),--engine "$(ENGINE)") $(if $(ADDRESS),--address "$(ADDRESS)")

# What `make test-processors` pretends to run on: ATen's instructions (native: this processor's own), oneDNN's at most,
# and threads.
PROCESSORS ?= default:AVX2:1 avx2:AVX512_CORE:4 native:AVX2:1 native:AVX512_CORE:1 native:AVX512_CORE_AMX:4

.PHONY: help all-formats format verify evaluate report publish prune test test-processors test-engines bench real-size lint clean-env
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

all-formats: $(VENV)/.ready
	@$(BIN)/sixfold export "$(MODEL)" all-formats $(EXPORT_OPTIONS)

format: $(VENV)/.ready
	@test -n "$(FORMAT)" || { echo "make format needs FORMAT=, one of: $$($(BIN)/sixfold recipes --names), or a path"; exit 2; }
	@$(BIN)/sixfold export "$(MODEL)" "$(FORMAT)" $(BUDGET) $(EXPORT_OPTIONS)

verify: $(VENV)/.ready
	@$(BIN)/sixfold verify --against "$(MODEL)" --out "$(OUT)" $(if $(NAME),--name "$(NAME)")

evaluate: $(VENV)/.ready
	@test -n "$(ARTIFACT)" || { echo "make evaluate needs ARTIFACT=, a folder or a GGUF file"; exit 2; }
	@$(BIN)/sixfold evaluate "$(ARTIFACT)" $(if $(BASELINE),--baseline "$(BASELINE)") $(OPTIONS)

report: $(VENV)/.ready
	@$(BIN)/sixfold report "$(MODEL)" --out "$(OUT)" $(if $(NAME),--name "$(NAME)")

publish: $(VENV)/.ready
	@$(BIN)/sixfold publish $(VARIANT) --model "$(MODEL)" --out "$(OUT)" $(if $(ORG),--org "$(ORG)") $(if $(NAME),--name "$(NAME)") $(OPTIONS)

# Elsewhere OUT is the root of all outputs, and the default MODEL the pruned demo; here they are the pruned folder and
# the demo that it was made of.
prune: $(VENV)/.ready
	@test -n "$(RATIO)$(KEEP)" || { echo "make prune needs RATIO=, such as 0.4, or KEEP=, such as 154"; exit 2; }
	@$(BIN)/sixfold prune "$(if $(filter file,$(origin MODEL)),demo/minimax-m2-4.6m,$(MODEL))" $(if $(RATIO),--ratio "$(RATIO)") $(if $(KEEP),--keep "$(KEEP)") \
		$(if $(HEAL),--heal) $(if $(filter file,$(origin OUT)),,--out "$(OUT)") $(if $(NAME),--name "$(NAME)") $(SETTINGS)

# One thread in each of the workers that share the cores; test-processors runs what depends on threads with several.
test: $(VENV)/.ready-dev
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest

test-processors: $(VENV)/.ready-dev
	@set -e; for setting in $(PROCESSORS); do \
		IFS=: read -r aten onednn threads <<< "$$setting"; echo "ATen $$aten, oneDNN $$onednn, threads $$threads:"; \
		env $$([ $$aten = native ] || echo ATEN_CPU_CAPABILITY=$$aten) ONEDNN_MAX_CPU_ISA=$$onednn OMP_NUM_THREADS=$$threads \
			$(BIN)/python -m pytest -q -m "arithmetic and not (engines or gpu or bench)"; \
	done

test-engines: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -n 0 -m engines -s -rs

bench: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -n 0 -m bench -s

# At the real size of a published model, 154 of its 256 experts: for a night and a GPU, see docs/scaling.md.
real-size: $(VENV)/.ready
	@$(BIN)/python -m benchmarks.real_size docs/configs/minimax-m2.7.json --experts 154 $(OPTIONS)

lint: $(VENV)/.ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean-env:
	rm -rf $(VENV)

$(VENV)/.ready: pyproject.toml environment.sh
	@bash environment.sh $(VENV) "$(PYTHON)" "$(or $(TORCH),$(DEFAULT_TORCH))" ""
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@bash environment.sh $(VENV) "$(PYTHON)" "$$(cat $(VENV)/torch-choice)" dev
	@touch $@

# A choice of PyTorch other than the one installed makes the environment again in place.
ifneq ($(TORCH),)
ifneq ($(TORCH),$(shell cat $(VENV)/torch-choice 2>/dev/null))
.PHONY: $(VENV)/.ready
endif
endif
