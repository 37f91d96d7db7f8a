# make train: train an agent on the dataset that comes with the package. make test: run the tests.
# Both set themselves up from nothing and do not install twice.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?= td3_bc --dataset hopper-demo --steps 10000 --eval_every 2500
# Plain PyTorch and JAX programs of two algorithms beside ours, on one core; AVX2 keeps all of them from AVX-512.
REFERENCES = $(BIN)/python -m benchmarks.throughput --references --peers .venv-peers/bin/python --algorithms td3_bc iql --members
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 XLA_FLAGS=--xla_cpu_max_isa=AVX2
RELEASE := setup.cfg pyproject.toml constraints.txt

.PHONY: train test test-all lint docs floors bench parity report scores

train: .venv/run.stamp
	$(BIN)/offline-rl train $(ARGS)

test: .venv/dev.stamp
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: test
	$(BIN)/pytest -n 2 --dist worksteal -m slow

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Never --quiet: what is not said does not count as a warning, and --strict would let it pass.
docs: .venv/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The lowest versions that setup.cfg permits, in an environment of their own: its floors are what passes here.
floors: .venv-lowest/lowest.stamp
	.venv-lowest/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

# The competitors live in an environment of their own: their pins exclude ours. BENCH="--data FILE" measures PRDC on it.
bench: .venv/dev.stamp .venv-peers/peers.stamp
	$(BIN)/python -m benchmarks.throughput --peers .venv-peers/bin/python --out results/throughput/cpu.json $(BENCH)
	$(REFERENCES) --out results/throughput/references.json
	$(AVX2) $(REFERENCES) --note "Kept from AVX-512, but for the matrix products of JAX, which cannot be." --out results/throughput/references-avx2.json
	$(BIN)/python -m benchmarks.compile_cost --out results/throughput/compiling.json

# d3rlpy's updates beside ours, from equal weights, batches and noise.
parity: .venv/dev.stamp .venv-peers/peers.stamp
	$(BIN)/python -m benchmarks.peer_parity
	$(BIN)/python -m benchmarks.peer_parity show

# Every committed table and figure, from the committed results: git then shows no difference.
report: .venv/dev.stamp
	$(BIN)/python -m benchmarks.results check results
	$(BIN)/python -m benchmarks.throughput --show results/throughput/cpu.json --chart results/throughput/cpu.png
	$(BIN)/python -m benchmarks.layers --show results/throughput/layers.json
	$(BIN)/python -m benchmarks.ensemble_cost --show results/throughput/ensembles.json --chart results/throughput/ensembles.png
	set -e; for folder in $$(ls -d results/*/ | grep -Ev '/(estimates|peer_parity|twins|stochastic|throughput|runs)/'); do \
	  name=$$(basename $$folder); suite=benchmarks/$$name.yaml; [ -e $$suite ] || suite=; \
	  $(BIN)/offline-rl report results/$$name $${suite:+--suite $$suite} >/dev/null; done
	$(BIN)/python -m benchmarks.reference results/minari --out results/minari/reference.csv
	$(BIN)/python -m benchmarks.estimates show >/dev/null
	$(BIN)/python -m benchmarks.stochastic >/dev/null
	$(BIN)/python -m benchmarks.robustness show
	$(BIN)/python -m benchmarks.peer_parity show
	if [ -d results/twins ]; then $(BIN)/python -m benchmarks.twins show; fi
	$(BIN)/python -m benchmarks.results pages
	$(BIN)/python -m benchmarks.algorithms

scores: .venv/dev.stamp
	$(BIN)/python -m benchmarks.results table results/comparison

.venv/run.stamp: $(RELEASE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . -c constraints.txt
	touch $@

.venv/dev.stamp: $(RELEASE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch .venv/run.stamp $@

.venv-lowest/lowest.stamp: $(RELEASE)
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e ".[test]"
	touch $@

.venv-peers/peers.stamp: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	touch $@
