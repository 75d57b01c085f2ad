# make look: set-up and the main job.  make test: set-up and the tests.  Both work on a fresh machine.

PYTHON ?= python3.11
BIN := .venv/bin
CONSTRAINED := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
CHECKED := --jaxtyping-packages=headwise,beartype.beartype

.PHONY: look test lint bench font browser

look: .venv/look font
	$(BIN)/headwise look --out look.png

# Messages and torch.compile are tested without the shape hook; everything else with shapes executed.
test: .venv/test font browser
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	JAXTYPING_DISABLE=1 $(BIN)/pytest $(PARALLEL) -m nohook
	$(BIN)/pytest $(PARALLEL) -m "not nohook" $(CHECKED)

lint: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: .venv/test
	$(BIN)/python benchmarks/observe.py
	$(BIN)/python benchmarks/growth.py

# torch first and alone: a package that asks for it must not choose its build.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(CONSTRAINED) torch
	@touch $@

.venv/look: .venv/torch pyproject.toml
	$(CONSTRAINED) -e .
	@touch $@

.venv/test: .venv/torch pyproject.toml
	$(CONSTRAINED) -e '.[lint]'
	@touch $@ .venv/look

# What is not Python's: brought where it is missing and we may install it.
BRING = { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
  { apt-get install -y -qq --no-install-recommends $(1) >/dev/null 2>&1 || \
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(1) >/dev/null; }; }; }

# For the pictures.
font:
	@fc-list :lang=zh 2>/dev/null | grep -q . || $(call BRING,fontconfig fonts-wqy-microhei) || \
	  echo "no font with Chinese characters found: install one, e.g. fonts-wqy-microhei"

# For the tests of the lecture's slides.
browser:
	@{ command -v chromium || command -v google-chrome; } >/dev/null || $(call BRING,chromium) || \
	  echo "no browser found: install one, e.g. chromium"
