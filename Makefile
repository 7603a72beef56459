# make demo   set up and run the quickstart; needs only Python 3.11 or newer and a package manager
# make test   set up, lint, run all tests
# Everything is installed into .venv (test-versions, test-upstream: .venvs), whatever environment is active; `make clean` removes it.

PYTHON ?= python3

BIN := .venv/bin
EXTRAS_demo := xarray
EXTRAS_test := test
EXTRAS_bench := bench
EXTRAS_history := history
EXTRAS_docs := docs
APT_GET := DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0

# An active environment must not leak into .venv.
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

.PHONY: help demo test test-versions test-upstream lint format docs bench-sites bench-history clean dot FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:
.SECONDARY:

help:
	@echo "make demo    run the quickstart"
	@echo "make test    lint, then run all tests"
	@echo "make test-versions   all tests on several versions of Dask and Python (VERSIONS=\"2025.5.1 2026.8.0@3.13\": on these)"
	@echo "make test-upstream   other projects' tests with pools, and docs/upstream.md (SUITES=\"dask.bag flox\": these, on the screen only)"
	@echo "make lint    ruff, mypy, codespell, import-linter, validate-pyproject"
	@echo "make format  let ruff rewrite the code"
	@echo "make docs    build the documentation"
	@echo "make bench-sites  as root: compare with others on simulated sites, and write docs/benchmarks.md"
	@echo "make bench-history  cost of planning, for asv, which compares it with other commits"
	@echo "make clean   remove .venv and everything built"
	@echo "Each sets up what it needs in .venv first. Another Python: make PYTHON=python3.12 test"

demo: dot .venv/.installed-demo
	@rm -f pools.png
	@$(BIN)/python examples/quickstart.py
	@test -s pools.png || { echo "The quickstart wrote no pools.png." >&2; exit 1; }
	@echo "The picture is $(CURDIR)/pools.png"

test: dot lint
	@$(BIN)/python -m pytest

# Each version in an environment of its own, one after another.
test-versions: dot .venv/.created
	@$(BIN)/python tests/versions.py $(VERSIONS)

# Hours. In an environment of its own: some of these projects change what others do when they are there.
test-upstream: .venv/.created
	@python=$$($(BIN)/python tests/environments.py upstream upstream) \
	  && "$$python" tests/upstream/run.py $(if $(SUITES)$(ARGS),$(SUITES) $(ARGS),--write)

# The same checks as the hooks of .pre-commit-config.yaml.
lint: .venv/.installed-test
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/codespell
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/validate-pyproject pyproject.toml

format: .venv/.installed-test
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: .venv/.installed-docs
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "The documentation is $(CURDIR)/docs/_build/html/index.html"

# About an hour. Some of it, quickly: make bench-sites ARGS="--repeat 1 --no-docs forecast outer"
bench-sites: .venv/.installed-bench
	@$(BIN)/python -m benchmarks.sites $(ARGS)

# Of this commit, in .venv. Some of it: make bench-history ARGS="--quick --bench 'Planning.*readme., 10000, 2'"
bench-history: .venv/.installed-history
	@$(BIN)/python -m asv machine --yes >/dev/null
	@$(BIN)/python -m asv run --environment existing:$(BIN)/python --set-commit-hash $$(git rev-parse HEAD) $(ARGS)

clean:
	rm -rf .venv .venvs .asv build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f pools.png

# ---- set-up -------------------------------------------------------------------------------------
# Quiet when it works; when it fails, the whole output of what failed is shown and nothing is marked as done.

# Also when the Python that .venv was made from has gone.
ifneq ($(shell $(BIN)/python -c "print('works')" 2>/dev/null),works)
.venv/.created: FORCE
endif

.venv/.created:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$("$(PYTHON)" --version 2>/dev/null || echo "not found")." >&2; \
	  echo "Install one, then name it: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@rm -rf .venv
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing python3-venv"; \
	    out=$$({ $(APT_GET) update && $(APT_GET) install -y python3-venv; } 2>&1 </dev/null) || { echo "$$out" >&2; exit 1; }; \
	  else \
	    echo "'$(PYTHON)' lacks the venv module. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; \
	  fi; \
	fi
	@out=$$("$(PYTHON)" -m venv .venv 2>&1) || { echo "$$out" >&2; exit 1; }
	@touch $@

.venv/.installed-%: .venv/.created pyproject.toml
	@echo "Installing dask-worker-pools[$(EXTRAS_$*)] into .venv (about a minute)"
	@out=$$($(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS_$*)]' 2>&1 </dev/null) \
	  || { echo "$$out" >&2; exit 1; }
	@touch $@

# Graphviz: the Python package comes with the others; the program that it calls does not.
dot:
	@command -v dot >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Graphviz"; \
	    out=$$({ $(APT_GET) update && $(APT_GET) install -y --no-install-recommends graphviz; } 2>&1 </dev/null) \
	      || { echo "$$out" >&2; exit 1; }; \
	  else \
	    echo "The Graphviz program 'dot' is needed to draw, and is not on the PATH. Install it with one of:" >&2; \
	    echo "  sudo apt-get install graphviz      (Debian, Ubuntu)" >&2; \
	    echo "  sudo dnf install graphviz          (Fedora)" >&2; \
	    echo "  brew install graphviz              (macOS)" >&2; \
	    echo "  conda install -c conda-forge graphviz" >&2; \
	    echo "then run make again." >&2; \
	    exit 1; \
	  fi; }
