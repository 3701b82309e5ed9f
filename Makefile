# Two commands on a fresh Debian machine do all the set-up: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILT_FROM := pyproject.toml hatch_build.py tracer/cli/manual.py $(shell find protos/schemas -name '*.proto')

.PHONY: help demo man test lint format verify screens bench fuzz clean

help:    ## this text
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(VENV)/.demo: $(BUILT_FROM)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(BUILT_FROM)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo    ## trace a bundled stand-in runtime, live
	$(BIN)/podwire demo

man: $(VENV)/.demo    ## the manual page, as it is built into the wheel
	@$(BIN)/python -m tracer.cli.manual | man -l -

test: lint    ## lint, then every test; those that need root, containerd or tshark say so when they are skipped
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev    ## ruff, mypy strict, the rooms' boundaries
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev    ## ruff format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

verify: $(VENV)/.dev    ## read the demo and every capture in captures/ with tshark too, and compare
	$(BIN)/podwire demo -w $(VENV)/demo.pcapng > /dev/null
	@for file in $(VENV)/demo.pcapng captures/*.gz; do echo $$file; $(BIN)/podwire verify $$file || exit 1; done

screens: $(VENV)/.dev    ## the pictures of the screen in docs/screens, anew (as PNG in build/screens; needs librsvg2-bin)
	$(BIN)/python -m tests.tracer.tui.draw

bench: $(VENV)/.dev    ## ratios to a peer, each kind in one run
	$(BIN)/python -m tests.bench decode
	$(BIN)/python -m tests.bench relay
	$(BIN)/python -m tests.bench tui
	$(BIN)/python -m tests.bench large

fuzz: $(VENV)/.dev    ## a minute of mutated connections through the dissectors, 10,000 through the Lua one
	$(BIN)/python -m tests.fuzz.fuzz 60
	$(BIN)/python -m tests.fuzz.wireshark 20

clean:    ## what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis protos/descriptors.binpb
