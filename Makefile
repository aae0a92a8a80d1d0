# Each target is complete in itself: from a fresh clone it first installs what it lacks (scripts/setup.sh).
# `make PYTHON=python3.12 ...` chooses the interpreter; otherwise the first of version 3.11 or later is taken.

.PHONY: help demo test check bench fuzz clean

help:
	@echo "make demo    serve the demo on this machine"
	@echo "make test    run the tests and measure their coverage;"
	@echo "             a selection of them: make test PYTEST_ARGS='--no-cov -k presence'"
	@echo "make check   lint, formatting, types and the layers of imports"
	@echo "make bench   run the benchmarks"
	@echo "make fuzz    fuzz what reads strangers' bytes for 80 seconds; for longer, one target, and keep what"
	@echo "             reaches something new: make fuzz FUZZ_SECONDS=600 FUZZ_TARGET=frames FUZZ_KEEP=1"
	@echo "make clean   remove what these have made"

demo:
	@sh scripts/setup.sh demo
	@.venv/bin/hubbub demo $(DEMO_ARGS)

test:
	@sh scripts/setup.sh test
	.venv/bin/python -m pytest $(PYTEST_ARGS) --cov

check:
	@sh scripts/setup.sh check
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench:
	@sh scripts/setup.sh bench
	.venv/bin/python -m benchmarks $(BENCH_ARGS)
	$(if $(BENCH_ARGS),,.venv/bin/python -m benchmarks.brokers --broker memory --broker sqlite --broker redis --name brokers)

fuzz:
	@sh scripts/setup.sh fuzz
	.venv/bin/python -m fuzz $(if $(FUZZ_SECONDS),--seconds $(FUZZ_SECONDS)) \
		$(foreach target,$(FUZZ_TARGET),--target $(target)) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED)) $(if $(FUZZ_KEEP),--keep)

clean:
	rm -rf .venv tests/peers/node_modules benchmarks/peers/node_modules benchmarks/peers/nginx benchmarks/peers/nginx.new
	rm -rf fuzz/found
	rm -rf dist build htmlcov .coverage .coverage.* .hypothesis
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
