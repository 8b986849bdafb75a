# make demo | test | test-quick | coverage | check | docs | soak | leaks | hostile | fuzz | sanitize | soak-all | bench |
# micro | wheel | pin | clean.
# Needs git, make, a C compiler and Python >= 3.11; the rest goes to .venv. With PYTHON=python3.13, a name or a path, it
# goes to .venv-3.13: each version has its own packages and extensions, and none has to wait for another's to be rebuilt.

VENV := .venv$(if $(PYTHON),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN := $(VENV)/bin
TYPED := $(wildcard fastgw/*.pxd fastgw/*/*.pxd)
NATIVE := $(wildcard fastgw/*.pyx fastgw/*/*.pyx $(TYPED:.pxd=.py) fastgw/*.h fastgw/*/*.h) $(TYPED)
WHAT ?= suite
ARGS ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
    $(if $(FASTGW_CONSTRAINTS),--constraint $(FASTGW_CONSTRAINTS))
DIST ?= dist
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

# Where Python is told to keep no bytecode, as in many containers, each process of a run compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# One process more than a small machine has cores, because tests wait, too. With four, faults are noticed so late that
# requests end which should not. tests/lanes.py says what begins first.
SHARED := --numprocesses=3 --dist=loadfile --no-loadscope-reorder

COVERED := build/covered
SANITIZED := build/sanitized
SANITIZED_TESTS := tests/test_ids.py $(patsubst %,tests/%.py,table/test_table table/test_table_model \
    table/test_table_slots http/test_heads http/test_express core/test_exchange core/test_routing kafka/test_klink \
    kafka/test_batching dialects/test_plain)
# Python's own allocator would hide what is done to memory.
SANITIZING = LD_PRELOAD="$$(cc -print-file-name=libasan.so)" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
    UBSAN_OPTIONS=halt_on_error=1

define PREPARE
command -v cc >/dev/null || { echo "fastgw: there is no C compiler, cc (Debian: apt-get install gcc)" >&2; exit 1; }; \
for python in $(PYTHONS); do \
    if $$python -c "$$SUITABLE" 2>/dev/null; then exec $$python prepare.py $(1) $(VENV); fi; \
done; \
echo "fastgw: none of $(PYTHONS) is Python >= 3.11 with venv and Python.h" \
    "(Debian: apt-get install python3-dev python3-venv)" >&2; exit 1
endef

.PHONY: demo test test-quick coverage check docs soak leaks sanitize soak-all bench micro hostile fuzz wheel pin clean

demo: $(firstword $(wildcard $(VENV)/built) $(VENV)/quick)
	@exec $(BIN)/python -m fastgw demo $(ARGS)

# One module or test: make test ARGS="tests/test_ids.py -x"
test: $(VENV)/built
	@exec $(BIN)/python -m pytest -q $(or $(ARGS),$(SHARED))

# What needs no broker, no compiler and no linter: while you work.
test-quick: $(VENV)/built
	@exec $(BIN)/python -m pytest -q $(SHARED) -m "not real_kafka and not leaks and not slow" $(ARGS)

# Branches of the Python code that tests take which need no Kafka, in all processes; fails when they are fewer than
# pyproject.toml says. The modules of the hot path run as Python here: coverage does not see what Cython compiles. A test
# that fails is shown, but it is `make test` that judges it.
coverage: $(VENV)/built
	rm -rf $(COVERED) && mkdir -p $(COVERED)
	cp -r .ci .editorconfig .gitignore .pre-commit-config.yaml *.md *.py *.yml LICENSE MANIFEST.in Makefile pyproject.toml \
	    fastgw tests bench docs deploy examples $(COVERED)
	find $(COVERED)/fastgw -name "*.so" -delete
	cd $(COVERED) && FASTGW_EXTENSIONS=native $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(COVERED) && PYTHONPATH=$(CURDIR)/$(COVERED) $(CURDIR)/$(BIN)/python -m pytest -q $(SHARED) \
	    -m "not real_kafka and not leaks and not compiled" $(patsubst %,--ignore=tests/%,source docs bench deploy) \
	    --cov --cov-report= --cov-fail-under=0 $(ARGS) || [ $$? -eq 1 ]
	cd $(COVERED) && $(CURDIR)/$(BIN)/python -m coverage report $(if $(ARGS),--fail-under=0)

check: export PATH := $(CURDIR)/$(BIN):$(PATH) # cython-lint calls pycodestyle by its name
check: $(VENV)/built
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/cython-lint fastgw

# The pages of docs/ as a site in build/docs; make docs ARGS=serve shows them at 127.0.0.1:8000 while they are written.
docs: $(VENV)/docs
	@NO_MKDOCS_2_WARNING=1 exec $(BIN)/python -m mkdocs $(or $(ARGS),build --quiet) --strict

# Faults for hours; see tests/faults/soak.py for less: make soak ARGS='--only "worker killed" --faults 100'
soak: $(VENV)/built
	@exec $(BIN)/python -m tests.faults.soak $(ARGS)

# Half an hour of load and faults: does anything grow? make leaks ARGS="--minutes 5"
leaks: $(VENV)/built
	@$(BIN)/python -m pytest -q -m leaks
	@exec $(BIN)/python -m tests.faults.leaks $(ARGS)

# The extensions and their tests, and half a million records through librdkafka, under AddressSanitizer and UBSan: for
# what is read or written where it must not be. Leaks are not looked for here: Python leaves too much behind, and the
# sanitizer keeps what is freed, so that tests which watch memory cannot pass.
sanitize: $(VENV)/bench
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r fastgw tests bench setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	find $(SANITIZED)/fastgw -name "*.so" -delete
	cd $(SANITIZED) && CFLAGS="-g -fno-omit-frame-pointer -fsanitize=address,undefined" \
	    $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(SANITIZED) && $(SANITIZING) $(CURDIR)/$(BIN)/python -m pytest -q -m "not real_kafka" \
	    -k "not leak" $(SANITIZED_TESTS)
	cd $(SANITIZED) && $(SANITIZING) $(CURDIR)/$(BIN)/python -m bench.questions.link native --messages 100000

# Everything that takes hours, one after the other: faults, leaks, sanitizers, ten million records through the native
# link, hostile clients, the fuzzer.
soak-all:
	$(MAKE) soak
	$(MAKE) leaks
	$(MAKE) sanitize
	$(MAKE) bench WHAT=link ARGS="native --rounds 100"
	$(MAKE) hostile
	$(MAKE) fuzz SECONDS=$(or $(SECONDS),600)

# make bench, make bench QUICK=1, make bench WHAT="growth workers"; see bench/README.md for what there is.
bench: $(VENV)/bench
	@exec $(BIN)/python -m bench.questions.$(WHAT) $(if $(QUICK),--quick) $(ARGS)

# Two versions: make micro JSON=before.json, change something, make micro JSON=after.json, then bench.compare of both.
micro: $(VENV)/built
	@exec $(BIN)/python -m pytest -q tests/micro --benchmark-enable --benchmark-only \
	    --benchmark-columns=min,median,iqr,rounds --benchmark-json=$(or $(JSON),micro.json) $(ARGS)

# Protocol conformance, TLS, what linters say of our answers, what Go's net/http makes of the same requests, the clients
# that people use through reloads, and what crowds of hostile clients cost the others: half an hour. Needs Go, and for the
# clients a JDK, Node and a real Kafka.
hostile: $(VENV)/hostile
	$(BIN)/python -m tests.hostile.h2spec $(VENV)/go/h2spec
	$(BIN)/python -m tests.hostile.tls $(VENV)/sslyze/bin/sslyze
	$(BIN)/python -m tests.hostile.lint $(VENV)/lint/bin/python
	$(BIN)/python -m tests.hostile.openapi $(VENV)/lint/bin/schemathesis
	$(BIN)/python -m tests.hostile.gosays $(VENV)/go/goserver
	$(BIN)/python -m tests.clients.trip --rounds 3
	$(BIN)/python -m tests.hostile.crowds $(ARGS)

# Every target for SECONDS; make fuzz ARGS="mesh ids" SECONDS=600 runs two of them. What is found is kept in .fuzz.
fuzz: $(VENV)/fuzz
	@exec $(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(ARGS)

# The sdist, and a wheel made from it for this version of Python and this kind of processor. Those of a release are made
# by cibuildwheel, see pyproject.toml.
wheel: $(VENV)/built
	rm -f $(DIST)/fastgw-*
	FASTGW_EXTENSIONS=no $(BIN)/python setup.py --quiet sdist --dist-dir $(DIST)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	    --wheel-dir $(DIST) $(DIST)/fastgw-*.tar.gz

# The versions of all packages that .ci/run installs, as they are today. A release that breaks something then breaks no
# build, only the change that brings it in.
pin: $(VENV)/built
	@exec $(BIN)/python prepare.py pin $(VENV)

# Not .kafka: its jars are no product of the build, and they took a download.
clean:
	rm -rf $(VENV) .venv .venv-* build dist bench/.build *.egg-info
	find fastgw -name "*.so" -delete -o -name "*.c" -delete
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find fastgw tests bench -name __pycache__ -prune -exec rm -rf {} +

# A demo runs as soon as it can; what is there already for everything else serves it as well.
$(VENV)/quick: prepare.py pyproject.toml setup.py $(NATIVE)
	@$(call PREPARE,quick)
	@touch $@

$(VENV)/built: prepare.py pyproject.toml setup.py $(NATIVE) $(FASTGW_CONSTRAINTS)
	@$(call PREPARE,full)
	@touch $@

$(VENV)/bench: $(VENV)/built
	@$(BIN)/python -c "$$EXTRA_REQUIRES" bench > $(VENV)/bench-requires
	@$(PIP) -r $(VENV)/bench-requires
	@touch $@

$(VENV)/docs: $(VENV)/built
	@$(BIN)/python -c "$$EXTRA_REQUIRES" docs > $(VENV)/docs-requires
	@$(PIP) -r $(VENV)/docs-requires
	@touch $@

$(VENV)/fuzz: $(VENV)/built
	@$(BIN)/python -c "$$EXTRA_REQUIRES" fuzz > $(VENV)/fuzz-requires
	@$(PIP) -r $(VENV)/fuzz-requires
	@touch $@

# sslyze in an environment of its own: it wants an older cryptography. The linters bring half a web framework.
$(VENV)/hostile: $(VENV)/built
	@GOBIN=$(CURDIR)/$(VENV)/go go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
	@cd tests/hostile/go_server && go build -buildvcs=false -o $(CURDIR)/$(VENV)/go/goserver .
	@$(BIN)/python -m venv $(VENV)/sslyze
	@$(VENV)/sslyze/bin/python -m pip install --quiet --disable-pip-version-check sslyze==6.3.1
	@$(BIN)/python -m venv $(VENV)/lint
	@$(VENV)/lint/bin/python -m pip install --quiet --disable-pip-version-check httplint==2026.10.4 schemathesis==4.32.5
	@touch $@

define SUITABLE
import os, sys, sysconfig
from importlib.util import find_spec
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and find_spec("ensurepip") and os.path.exists(header)))
endef
export SUITABLE

# An extra without building fastgw a second time.
define EXTRA_REQUIRES
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
endef
export EXTRA_REQUIRES
