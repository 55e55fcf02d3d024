.PHONY: demo test lab figures lint clean
PY := .venv/bin/python
PYTHON ?= python3

demo: .venv/ready
	$(PY) -m vspcn_lib demo

test: .venv/ready
	$(PY) -m ruff check vspcn_lib tests
	$(PY) -m pytest tests

lint: .venv/ready
	$(PY) -m ruff check vspcn_lib tests

figures: .venv/ready
	$(PY) -m vspcn_lib figures

lab: .venv/ready
	$(PY) -m jupyterlab notebooks

# uv installs in half a minute; plain pip is the fall-back where uv has no wheel.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version) if sys.version_info < (3, 11) else None"
	test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "Installing packages into .venv (once, about a minute, 6 GB) ..."
	$(PY) -m pip install -q -U pip uv \
	  && $(PY) -m uv pip install --python $(PY) -c constraints.txt -e '.[notebooks,dev]' \
	  || $(PY) -m pip install -c constraints.txt -e '.[notebooks,dev]'
	touch $@

clean:
	rm -rf .venv outputs
