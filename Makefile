# What a person types. PYTHON=python3.13 make test takes another interpreter.
# All that is made lies in .venv/ and build/, apart for each version of Python.

PYTHON ?= python3
ADDRESS ?= 127.0.0.1
PORT ?= 8000
FUZZ_SECONDS ?= 600
FUZZ_CONNECTIONS ?= 10000
BENCH ?=  # more arguments of bench/run.py, which says them with --help
CHECKS ?=  # of make test: a few of those in tools/test; what is quick, when empty

version := $(shell $(PYTHON) -c 'import platform, sys; print(platform.python_version() + sys.abiflags)')
venv := .venv/$(version)
bench := $(venv)-bench
wheels := build/wheel-$(version)
export PATH := $(CURDIR)/$(venv)/bin:$(PATH)

sources := $(shell find include module zloop -type f -not -name '*.pyc') meson.build meson_options.txt LICENSE README.md
cpp = $(shell git ls-files '*.[ch]pp')

.PHONY: help
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /  make \1	/p' Makefile

.PHONY: run
run: $(venv)/zloop  ## serve examples/python/hello_asgi.py with uvicorn; Ctrl-C ends it
	@tools/serve $(ADDRESS) $(PORT)

.PHONY: test
test: $(venv)/zloop  ## what one runs before a commit: C++, Python, the suites of CPython and uvicorn
	@tools/test $(wheels) $(CHECKS)

.PHONY: test-all
test-all: $(venv)/zloop  ## that, and the rest: sanitizers, other levels, packaging, the site, uvloop's suite, io_uring
	@pip install -q --disable-pip-version-check --group howto
	@status=0; tools/test $(wheels) || status=1; tools/test $(wheels) --rest || status=1; exit $$status

.PHONY: conformance
conformance: $(venv)/zloop  ## the suites of CPython, uvicorn, uvloop, anyio and aiohttp, on zloop
	@tools/test $(wheels) cpython uvicorn uvloop anyio aiohttp

.PHONY: conformance-sid
conformance-sid:  ## CPython's suite and the Python tests on 3.14 and 3.15, in a Debian sid root
	@status=0; for python in python3.14 python3.15; do \
		tools/sid make -s PYTHON=$$python test CHECKS="cpython python" || status=1; \
	done; exit $$status

.PHONY: sanitize
sanitize: $(venv)/requirements  ## CPython's suite and the Python tests on the module with ASan and UBSan
	@tools/sanitize build/sanitized-$(version) $(CHECKS)

.PHONY: modes
modes: $(venv)/zloop  ## the same with asyncio's debug mode, Python's, its debugging allocator, and io_uring
	@tools/test $(wheels) $(foreach mode,debug dev malloc io_uring,python:$(mode) cpython:$(mode))

.PHONY: kqueue
kqueue: $(venv)/requirements  ## the Python tests and CPython's suite on kqueue, over libkqueue; 10 minutes
	@tools/test-kqueue build/kqueue-$(version) $(CHECKS)

.PHONY: kqueue-bsd
kqueue-bsd:  ## C++ tests on NetBSD's own kqueue, TCP and pipes, a library: RUMP=folder; 5 minutes
	@tools/test-kqueue-bsd $(RUMP)

.PHONY: fuzz
fuzz:  ## random programs on the scripted backend, for FUZZ_SECONDS, with clang's libFuzzer
	@tools/fuzz $(FUZZ_SECONDS)

.PHONY: fuzz-tls
fuzz-tls: $(venv)/zloop  ## FUZZ_CONNECTIONS over TLS through a proxy that breaks them, other ones each time
	cd tests; ZLOOP_TLS_FUZZ_CONNECTIONS=$(FUZZ_CONNECTIONS) pytest -q python/test_tls_fuzz.py

.PHONY: amalgamate
amalgamate:  ## one header of all: build/amalgamated/zloop.hpp, and zloop_testing.hpp beside it
	@rm -rf build/amalgamated
	@$(PYTHON) tools/amalgamate build/amalgamated

.PHONY: compilers
compilers: $(venv)/requirements  ## the C++ tests with every compiler that is here, at every level
	tools/test-compilers

.PHONY: qemu
qemu: $(venv)/requirements  ## the C++ tests on i386, armhf and s390x, also under qemu-user; a quarter of an hour
	tools/test-qemu

.PHONY: coverage
coverage: $(venv)/requirements  ## lines that no test runs; bars: headers 95 %, module 92 %, Python 100 %
	@pip install -q --disable-pip-version-check --group coverage
	@status=0; \
	tools/coverage || status=1; \
	tools/coverage-python build/coverage-python-$(version) || status=1; \
	exit $$status

.PHONY: bench
bench: $(bench)/zloop  ## zloop beside its peers and a raw epoll server, all rows: about two hours
	$(bench)/bin/python bench/run.py --json build/bench/run.json --png build/bench/run.png $(BENCH)
	$(bench)/bin/python bench/memory.py --json build/bench/run.json
	$(bench)/bin/python bench/leak.py --loop zloop
	$(bench)/bin/python bench/idle.py --loop zloop

.PHONY: bench-quick
bench-quick: $(bench)/zloop  ## the rows that matter most, in 5 minutes; BENCH='--rows tls-*' for others
	$(bench)/bin/python bench/run.py --quick --json build/bench/quick.json $(BENCH)

.PHONY: bench-cpp
bench-cpp:  ## the C++ library beside asio and a raw epoll server: about 5 minutes
	$(PYTHON) bench/cxx.py

.PHONY: bench-bridge
bench-bridge: $(venv)/zloop  ## Python awaits C++, C++ awaits Python, and the usual ways: 2 minutes
	$(venv)/bin/python bench/bridge.py

.PHONY: bench-redis
bench-redis: $(venv)/zloop  ## the Redis client of examples/extension/resp, redis-py, coredis: 2 minutes
	@pip install -q --disable-pip-version-check --group redis
	$(venv)/bin/python bench/redis_clients.py

.PHONY: bench-http-extension
bench-http-extension: $(venv)/zloop  ## plaintext of examples/extension/http beside the raw floor, with wrk: 1 minute
	$(venv)/bin/python bench/http_extension.py

.PHONY: lint
lint: $(venv)/zloop  ## spacing, habits, types
	ruff check
	ruff format --check
	clang-format --dry-run --Werror $(cpp)
	stubtest --mypy-config-file pyproject.toml zloop

.PHONY: format
format: $(venv)/requirements  ## settle the spacing
	ruff check --fix-only
	ruff format
	clang-format -i $(cpp)

.PHONY: docs
docs: $(venv)/docs  ## the site, in build/site: pages, reference, charts; a warning fails
	@tools/docs build/site

.PHONY: charts
charts: $(venv)/docs  ## docs/pictures and the figures of docs/performance.md, from the newest of bench/results
	python docs/site/charts.py

.PHONY: clean
clean:  ## forget all that was made
	rm -rf build .venv

# The environment: pinned tools, then zloop itself as a wheel. The build directory stays, so a change
# compiles what it touches; without one, neither of these has anything to do.

$(venv)/requirements: pyproject.toml tools/setup
	@tools/setup $(PYTHON) $(venv)
	@touch $@

$(venv)/zloop: $(venv)/requirements $(sources)
	@rm -rf $(wheels)
	pip wheel -q --no-build-isolation --no-deps -Cbuild-dir=build/module-$(version) -w $(wheels) .
	pip install -q --no-deps --force-reinstall $(wheels)/*.whl
	@touch $@

# What makes the site; not part of what the tests need.
$(venv)/docs: $(venv)/zloop
	pip install -q --disable-pip-version-check --group docs
	@touch $@

# The peers have an environment of their own: with uvloop in it, uvicorn would choose otherwise.
$(bench)/zloop: $(venv)/zloop bench/requirements.txt
	[ -e $(bench) ] || $(PYTHON) -m venv $(bench)
	$(bench)/bin/python bench/peers.py
	$(bench)/bin/python -m pip install -q --no-deps --force-reinstall $(wheels)/*.whl
	@touch $@
