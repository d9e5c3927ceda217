# make          says what there is
# make setup    installs what Taube needs into .venv/ and web/ and builds the phone app, nothing else
# make run      starts a server and an echo contact here, and says what to type to write to it
# make test     everything that CI runs: format, lint, types and tests (under 10 minutes on 2 cores)
# make check    the same without browsers and stories with real servers (about a minute)
# make test-slow   the long random runs, before anything is called done
# make bench    measures what server and app cost and writes bench/results.json; QUICK=1 make bench: one short run
# make chaos    faults for half an hour (MINUTES=30): crashes, power cuts, full disks; says what was broken; SEED=n replays it
# make fuzz     feeds arbitrary bytes to everything that parses a stranger's for an hour (MINUTES=60, TARGET=name for one)
# make docs     writes the generated tables, vectors and parts of the phone app anew
# make screenshots   takes the pictures of the README anew, with real phones in Chromium (a minute)
# make lock     writes the locked requirements anew (needs uv)
# make clean    removes what can be made again (.venv/, Node's packages, the built app, caches, the server of make run)

.POSIX:
.PHONY: help setup dev run test check test-slow bench chaos fuzz docs screenshots lock clean lint browsers

BIN = .venv/bin
WITH_PATH = PATH="$$PWD/$(BIN):$$PATH"

help:
	@sed -n 's/^# //p' Makefile

setup:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh run

dev:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh dev

run: setup
	@$(BIN)/python scripts/run.py

lint: dev
	@echo "Format …" && $(BIN)/ruff format --check --quiet . || { echo "Run: $(BIN)/ruff format ."; exit 1; }
	@echo "Lint …" && $(BIN)/ruff check --quiet .
	@echo "Types …" && $(BIN)/mypy --no-error-summary
	@echo "The phone app: format, lint, types …" && $(BIN)/python -m scripts.node check || { echo "For what is only format: cd web && npm run format"; exit 1; }

browsers: dev
	@$(BIN)/python -m scripts.browsers

test: browsers lint
	@echo "Tests of the phone app …" && $(BIN)/python -m scripts.node test
	@echo "Tests of the phone app in browsers …" && $(BIN)/python -m scripts.browsers test:browser
	@echo "Tests …" && $(WITH_PATH) $(BIN)/python -m pytest -n 3

check: lint
	@echo "Tests of the phone app …" && $(BIN)/python -m scripts.node test
	@echo "Fast tests …" && $(WITH_PATH) $(BIN)/python -m pytest -n 2 --ignore tests/story

test-slow: browsers lint
	@echo "Tests of the phone app …" && $(BIN)/python -m scripts.node test
	@echo "Tests of the phone app in browsers …" && TAUBE_SLOW=1 $(BIN)/python -m scripts.browsers test:browser
	@echo "All tests, the long random ones too …" && TAUBE_HYPOTHESIS=slow $(WITH_PATH) $(BIN)/python -m pytest -n 2 --slow --timeout 3600

bench: dev
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

chaos: dev
	@$(BIN)/python -m tests.chaos --minutes $${MINUTES:-30} $${SEED:+--seed $$SEED}

fuzz: dev
	@PYTHON="$(PYTHON)" sh scripts/setup.sh fuzz
	@$(BIN)/python -m tests.fuzz --minutes $${MINUTES:-60} $${TARGET:+--target $$TARGET}

docs: dev
	@$(BIN)/python -m scripts.generate_vectors
	@$(BIN)/python -m scripts.generate_docs
	@$(BIN)/python -m bench.report

screenshots: dev
	@$(BIN)/python -m scripts.screenshots

lock:
	@sh scripts/lock.sh

clean:
	rm -rf .venv .taube web/node_modules tests/interop/node_modules src/taube/web .mypy_cache .ruff_cache .pytest_cache .hypothesis
