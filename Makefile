.PHONY: demo test lab figures notebooks notebooks-test lint audit trust clean
PY := .venv/bin/python
PYTHON ?= python3
NBVAL := $(PY) -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with tests/nbval.cfg

demo: .venv/ready
	$(PY) -m vspcn_lib demo

test: .venv/ready
	$(PY) -m ruff check vspcn_lib tests notebooks/rerun.py notebooks/lab_config.py
	$(PY) -m vspcn_lib demo
	$(PY) -m pytest tests
	$(NBVAL) notebooks

# Every notebook, cell by cell, against its committed output; they look into the demo's run, made above if missing.
notebooks-test: .venv/ready
	$(PY) -m vspcn_lib demo
	$(NBVAL) notebooks

# Run every notebook anew and keep it in the form that is committed.
notebooks: .venv/ready
	$(PY) -m vspcn_lib demo
	$(PY) notebooks/rerun.py

lint: .venv/ready
	$(PY) -m ruff check vspcn_lib tests notebooks/rerun.py notebooks/lab_config.py

# Known vulnerabilities of the pinned packages; says so where their data cannot be reached.
audit: .venv/ready
	$(PY) -m ruff check --select S vspcn_lib notebooks/rerun.py
	PYTHONPATH=tests $(PY) tests/campaigns/audit.py

# The campaigns of tests/README.md in full, about a quarter of an hour; their short form is part of `make test`.
trust: .venv/ready
	PYTHONPATH=tests $(PY) tests/campaigns/faults.py --out records/trust/faults.json
	PYTHONPATH=tests $(PY) tests/campaigns/corpus.py --out records/trust/inputs.json
	PYTHONPATH=tests $(PY) tests/campaigns/load.py --out records/trust/load.json

figures: .venv/ready
	$(PY) -m vspcn_lib figures

# Served on this machine alone, with the token that JupyterLab prints. Slider moves stay on the kernel's main thread;
# a saved notebook keeps pictures and numbers in place of the live views that only a kernel can show.
lab: .venv/ready
	mkdir -p .venv/share/jupyter/lab/settings
	printf '%s\n' '{"@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"}}' \
	  > .venv/share/jupyter/lab/settings/overrides.json
	$(PY) -m jupyterlab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --notebook-dir=. \
	  --config=notebooks/lab_config.py notebooks/00_start_here.ipynb

# uv installs in half a minute; plain pip is the fall-back where uv has no wheel.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version) if sys.version_info < (3, 11) else None"
	test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "Installing packages into .venv (once, about a minute, 6 GB) ..."
	$(PY) -m pip install -q -U pip uv \
	  && $(PY) -m uv pip install --compile-bytecode --python $(PY) -c constraints.txt -e '.[notebooks,dev]' \
	  || $(PY) -m pip install -c constraints.txt -e '.[notebooks,dev]'
	touch $@

clean:
	rm -rf .venv outputs
