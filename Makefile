# `make quickstart` trains a small GPT here; `make tutorial` walks through one;
# `make test` runs the whole suite. Each makes .venv if it is missing.
# PYTHON=python3.12 chooses another Python. They install the exact versions of the
# .lock files; `make lock` renews these, and `make audit` looks for known faults in them.
PYTHON ?= python3
RUN = runs/quickstart
# Large memory pages, where glibc has them: about 10 % more tokens a second on a CPU.
export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

.PHONY: quickstart tutorial test test-slow slow-tests mutants layouts parity absent-env absent-test absent slices lint lock audit

.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.lock
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	.venv/bin/pip install -q -r requirements-dev.lock
	touch $@

# The compilers of GPUs and TPUs that are not here (docs/scaling.md): 6 GB.
.venv-absent/installed: requirements-absent.lock
	$(PYTHON) -m venv .venv-absent
	.venv-absent/bin/pip install -q -r requirements-absent.lock
	touch $@

# Of their own, as what they need may not be what the locks say.
.tools/installed:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install -q 'uv>=0.9' 'pip-audit>=2.7'
	touch $@

quickstart: .venv/installed
	.venv/bin/python launch.py train --config=experiments/quickstart.py --workdir=$(RUN) $(FLAGS)
	.venv/bin/python launch.py sample --workdir=$(RUN) --prompt='The function returns' --num_return=3 --max_new_tokens=60
	.venv/bin/python launch.py eval --workdir=$(RUN) --baselines

# Runs the code of both tutorials, from nothing, and compares all that it prints.
# FLAGS=--update writes what it prints, and its pictures, into docs/ instead.
tutorial: .venv/installed
	rm -rf runs/tutorial
	.venv/bin/python experiments/tutorial/run.py $(FLAGS) docs/tutorial.md docs/tutorial.ru.md

# The suite without the tests of tests/slow.txt: meant to take 8 minutes on two slow cores.
SUITE = .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
test: .venv/installed-dev
	$(SUITE) -m 'not slow'

# The other tests, each of which takes 4 seconds of one core or more.
test-slow: .venv/installed-dev
	$(SUITE) -m slow

# Which those are, where nothing else is at work.
slow-tests: .venv/installed-dev
	rm -rf .pytest_cache/compiled
	$(SUITE) --durations=0 --durations-min=4 > .pytest_cache/slow.log || (cat .pytest_cache/slow.log; false)
	sed -n 's/^ *[0-9.]*s call *//p' .pytest_cache/slow.log | sort > tests/slow.txt

# Faults planted in a copy of the tree, one by one: which does no test catch? 20 drawn by
# date: FLAGS=--draw=20; those of a room: FLAGS=--only=training/
mutants: .venv/installed-dev
	.venv/bin/python -m benchmarks.mutants $(FLAGS)

# Every layout with every way to compute a step, where CI takes each pair once; and more
# layouts over eight processes.
layouts: .venv/installed-dev
	GPT_JAX_ALL_LAYOUTS=1 .venv/bin/python -m pytest -q -n 2 tests/test_sharding.py \
	  tests/test_slices.py

# What CI holds as goldens, live against PyTorch, transformers and lm-eval; and three
# models that transformers' Trainer makes first, in some minutes, unless they are there.
parity: .venv/installed-dev
	.venv/bin/pip install -q -r benchmarks/requirements.txt -c benchmarks/requirements.lock
	.venv/bin/python -m benchmarks.train_with_transformers
	.venv/bin/python -m pytest -q -rs tests/test_parity.py tests/test_trained_imports.py \
	  tests/test_trajectory.py \
	  tests/test_logit_rules.py tests/test_selection.py tests/test_generate.py \
	  tests/test_beam.py tests/test_hugging_face_tokenizers.py tests/test_lm_eval.py \
	  tests/test_folders.py tests/test_tokenizer_folders.py

absent-env: .venv-absent/installed

# What XLA makes of small programs for absent devices. A second run takes from
# .pytest_cache what the first found, of programs that are as they were.
absent-test: absent-env
	JAX_PLATFORMS=cpu .venv-absent/bin/python -m pytest -q tests/test_absent.py

# Programs for GPUs and TPUs that are not here, before and after, into
# benchmarks/results/absent.md: hours the first time; stopped, it goes on where it was.
# FLAGS=--only='update of 124M' compiles some rows, FLAGS=--before=REF compares with REF.
absent: absent-env
	JAX_PLATFORMS=cpu .venv-absent/bin/python -m benchmarks.absent $(FLAGS)

# Slices of 8 to 1,024 devices that are not here, into benchmarks/results/slices.md: hours
# the first time; stopped, it goes on where it was. FLAGS=--only='13B, h100' compiles some.
slices: absent-env
	JAX_PLATFORMS=cpu .venv-absent/bin/python -m benchmarks.slices $(FLAGS)

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check . --exclude "*.md"

# The largest set first, so that the smaller ones have the same versions. Without hashes:
# which build of torch is installed (for CPUs or CUDA) is left open.
COMPILE = .tools/bin/uv pip compile -q --universal --python-version=3.11 --upgrade \
  --custom-compile-command='make lock'
lock: .tools/installed
	$(COMPILE) benchmarks/requirements.txt requirements-dev.txt -o benchmarks/requirements.lock
	$(COMPILE) --generate-hashes requirements-dev.txt -c benchmarks/requirements.lock -o requirements-dev.lock
	$(COMPILE) --generate-hashes requirements-absent.txt -c requirements-dev.lock -o requirements-absent.lock
	$(COMPILE) --generate-hashes requirements.txt -c requirements-dev.lock -o requirements.lock

audit: .tools/installed
	.tools/bin/python .ci/audit.py requirements-dev.lock
