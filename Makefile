# One command each: demo, test, soak, sanitize, fuzz, mutate, teeth, check, format, bench, dist, clean. All happens in .venv,
# which is made when needed and made anew from its stamps when the C, the Cython or the project file change.

PYTHON ?= python3
BIN := .venv/bin
BUILD_INPUTS := pyproject.toml setup.py $(wildcard src_c/*.[ch] fastxfer/_native/*.pyx fastxfer/_native/*.pxd)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test soak sanitize fuzz mutate teeth check format bench dist clean

demo: .venv/.ready
	$(BIN)/fastxfer demo

test: .venv/.ready-test
	.ci/install-packages test
	$(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --dist worksteal  # many of them wait

# The tests with objects of 2 GiB, 2,000 kills at random moments and one at each system call, hundreds of thousands of
# power cuts, and hundreds of take-overs; over two hours. It prints what the kills cost.
soak: .venv/.ready-test
	.ci/install-packages test
	FASTXFER_SOAK=1 $(BIN)/python -m pytest -rP tests/test_fetch.py tests/kills tests/crash \
		tests/storage/test_owner.py tests/faults/test_two_writers.py tests/machine tests/small \
		tests/stores/test_put_kills.py tests/stores/test_put_resume.py \
		tests/mirrorbench/test_six.py

# The C and the Cython under gcc's sanitizers of memory and of undefined behaviour, in a tree of their own; a finding ends
# the tests. The interpreter leaks by design: guard_check.c, a program of its own, is what leaks are looked for in.
SANITIZED := build/sanitize
sanitize: .venv/.ready-test
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r fastxfer src_c tests docs setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	rm -f $(SANITIZED)/fastxfer/_native/*.c $(SANITIZED)/fastxfer/_native/*.so
	cd $(SANITIZED) && FASTXFER_SANITIZE=address,undefined $(CURDIR)/$(BIN)/python -m pip install --quiet \
	  --no-deps --upgrade --target . .
	cd $(SANITIZED) && LD_PRELOAD="$$($(CC) -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
	  ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0:allocator_may_return_null=1 \
	  $(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider $(SANITIZED_TESTS)
SANITIZED_TESTS ?= tests/native tests/storage

# Every reader of outside input for FUZZ_SECONDS, or only those named by FUZZ_TARGETS; findings become tests.
FUZZ_SECONDS ?= 60
fuzz: .venv/.ready-test
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]' || echo "no atheris for this Python"
	$(BIN)/python -m tests.fuzz.long $(FUZZ_TARGETS) --seconds $(FUZZ_SECONDS)

# The plan with a thousand small errors, one at a time: which of them do its tests notice?
mutate: .venv/.ready-test
	$(BIN)/python -m pip install --quiet --editable '.[mutate]'
	rm -rf mutants
	$(BIN)/python -m tests.mutation

# The state machine over a target's life on copies of the package that are wrong in one way each: does it notice?
teeth: .venv/.ready-test
	$(BIN)/python -m tests.machine.teeth

check: .venv/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: .venv/.ready-test
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv/.ready-test
	.ci/install-packages test bench
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m pytest bench --benchmark-only
	$(BIN)/python -m bench.compare $(COMPARE)
	$(BIN)/python -m bench.durability $(DURABILITY)
	$(BIN)/python -m bench.stores $(STORES)

dist: .venv/.ready-test
	rm -rf dist
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist mutants .fuzz *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f fastxfer/_native/*.c fastxfer/_native/*.so
	find fastxfer tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter without ensurepip leaves half an environment behind, hence the removal.
$(BIN)/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "no venv: apt-get install python3-venv" >&2; exit 1; }

.venv/.ready: $(BUILD_INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.ready-test: $(BUILD_INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch .venv/.ready $@
