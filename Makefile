# One target per thing that a person does here; each installs what it needs first and says what it installs.
# Values are given as variables: make demo KEEP=1.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help build test attack mutants fuzz test-vm test-compose test-mixed deb reproduce test-deb test-systemd chaos soak reliability truth lint deny check fmt schemas demo bench bench-bus bench-whole bench-gateway bench-metrics bench-page clean-cache bench-verify bench-since

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'

build: ## Build everything in release mode
	@scripts/install-deps build
	$(CARGO) build --release --workspace

test: ## All tests, on real servers, LVM in a VM included
	@scripts/install-deps build test vm
	@scripts/test --workspace

test-vm: ## Only the suites that run inside the VM (LVM, device-mapper)
	@scripts/install-deps build test vm
	@scripts/test-vm

attack: ## What docs/security.md says of attackers, tried as real other users and hosts
	@scripts/install-deps build test
	@scripts/test-attack

mutants: ## Tests of attacks that cannot fail: each mend that tests/mutants.toml names is taken out, and its tests must be red
	@scripts/install-deps build test
	@cargo run --quiet -p xtask -- mutants

fuzz: ## What strangers, disks and servers may send, to every reader of it: make fuzz MINUTES=n is n minutes for each
	@scripts/install-deps build test
	@OA_FUZZ_S=$$(( $(or $(MINUTES),1) * 60 )) scripts/test --workspace fuzz_

test-mixed: ## This release beside the one before: ctl with agents, donors with recipients, seeds that one begins and the other ends
	@scripts/install-deps build test
	@scripts/release-before
	@scripts/test --workspace --test mixed

test-deb: ## The packages on clean hosts with systemd: five lines, a seed, an upgrade in the middle of one, removal, purge
	@scripts/install-deps build systemd
	@scripts/test-deb

reproduce: ## The release built twice, the second time from vendored crates without network: the same bytes
	@scripts/install-deps build
	@scripts/reproduce

deb: ## Packages for Debian and Ubuntu, in target/debian: agent, ctl, gateway
	@scripts/install-deps build
	@scripts/deb

test-compose: ## docker-compose.yml on a real Docker engine: two hosts, one seed
	@scripts/install-deps build compose
	@scripts/test-compose

test-systemd: ## README's "Two real hosts" and more on three hosts with systemd, Debian's servers and least privilege
	@scripts/install-deps build systemd
	@scripts/test-systemd

chaos: ## Seeds under random kills, cuts and aborts: make chaos SEED=7 MINUTES=30; a SEED does the same again
	@scripts/install-deps build test
	@OA_CHAOS_SEED=$(or $(SEED),1) OA_CHAOS_MINUTES=$(or $(MINUTES),5) scripts/test --workspace --test chaos \
	  $(if $(shell $(CARGO) nextest --version 2>/dev/null),--ignore-default-filter --no-capture,-- --nocapture)

soak: ## Five hosts under seeds, snapshots and faults at random: make soak HOURS=2 (or MINUTES=10) SEED=1; the report is in target/soak
	@scripts/install-deps build test
	@OA_SOAK_SEED=$(or $(SEED),1) OA_SOAK_MINUTES=$(if $(HOURS),$$(( $(HOURS) * 60 )),$(or $(MINUTES),10)) scripts/test --workspace --test soak \
	  $(if $(shell $(CARGO) nextest --version 2>/dev/null),--ignore-default-filter --no-capture,-- --nocapture)

reliability: ## Every fault at every stage of a seed (`make test` has each once), each server of a cluster too, then docs/reliability.md from what came of it
	@scripts/install-deps build test
	$(CARGO) run --quiet --bin reliability -- forget
	@OA_CELLS=all OA_CUT_S=$(or $(CUT_S),60) scripts/test --workspace --test 'reliability*' --test cluster
	$(CARGO) run --quiet --bin reliability

truth: ## Layouts and histories of real hosts on each server (`make test` has a sample), then docs/truth.md from what came of them
	@scripts/install-deps build test
	$(CARGO) run --quiet --bin truth -- forget
	@OA_CELLS=all scripts/test --workspace --test truth
	$(CARGO) run --quiet --bin truth

lint: ## Formatting, clippy, schemas, crate arrows, tidiness, licences
	@scripts/install-deps build
	@scripts/lint

deny: ## Licences, sources and known vulnerabilities of what is built in; cargo-deny is installed once, some minutes
	@scripts/install-deny
	@$(CARGO) deny --log-level error check licenses bans sources
	@$(CARGO) deny --log-level error check advisories

check: ## What CI runs: the tests, a short soak, then lint
	@.ci/run

fmt: ## Format the code
	$(CARGO) fmt --all

schemas: ## Write schemas/, docs/commands.md and docs/configuration.md anew from the code
	$(CARGO) run --quiet -p xtask -- schemas
	@OA_WRITE_SCHEMAS=1 $(CARGO) test --quiet -p orchestrator-ctl --lib schemas_of_what_ctl_prints

demo: ## Two MariaDB hosts, two agents, one seed, on this machine: KEEP=1 leaves it running
	@scripts/install-deps build demo
	@KEEP=$(KEEP) scripts/demo

bench: ## Seed speed beside other tools on this machine; writes docs/benchmarks.md
	@scripts/install-deps build bench
	$(CARGO) run --quiet --release --bin seed-bench -- --docs docs/benchmarks.md --json target/bench/results.json
	$(CARGO) bench --quiet --workspace --bench store -- --docs $(CURDIR)/docs/benchmarks.md --json $(CURDIR)/target/bench/results.json

bench-whole: ## A whole seed: MySQL's absence, the stage recover, CLONE beside it; writes docs/seed-benchmarks.md
	@scripts/install-deps build test
	@scripts/server-root mysql9
	$(CARGO) build --quiet --release --workspace --bins
	@mkdir -p target/bench
	OA_PROGRAMS=$(CURDIR)/target/release $(CARGO) bench --quiet -p e2e --bench whole -- --docs $(CURDIR)/docs/seed-benchmarks.md --json $(CURDIR)/target/bench/whole.json

bench-bus: ## An idle agent, command round trips, a fleet of 10,000: see docs/bus-benchmarks.md
	@scripts/install-deps build test
	$(CARGO) build --quiet --release --workspace --bins
	$(CARGO) run --quiet --release -p e2e --example figures
	$(CARGO) run --quiet --release -p bus --example measure
	$(CARGO) run --quiet --release -p e2e --example crowd

bench-gateway: ## The gateway polled as orchestrator polls: see docs/orchestrator.md
	@scripts/install-deps build test
	$(CARGO) build --quiet --release --workspace --bins
	OA_PROGRAMS=$(CURDIR)/target/release $(CARGO) run --quiet --release -p e2e --example polling

bench-verify: ## What a scheduled proof costs the queries of the server beside it: see docs/snapshots.md
	@scripts/install-deps build test
	$(CARGO) build --quiet --release --workspace --bins
	OA_PROGRAMS=$(CURDIR)/target/release $(CARGO) run --quiet --release -p e2e --example proving

bench-since: ## A seed of which the recipient has kept the one before, beside a delta: see docs/data-plane.md
	@scripts/install-deps build test
	$(CARGO) run --quiet --release -p e2e --example keeping

bench-metrics: ## A scrape of 1,000 hosts: see docs/metrics.md
	@scripts/install-deps build test
	$(CARGO) build --quiet --release --workspace --bins
	OA_PROGRAMS=$(CURDIR)/target/release $(CARGO) run --quiet --release -p e2e --example scraping

bench-page: ## The first view of 1,000 hosts in a browser: see docs/page.md
	@scripts/install-deps build test
	$(CARGO) build --quiet --release --workspace --bins
	OA_PROGRAMS=$(CURDIR)/target/release $(CARGO) run --quiet --release -p e2e --example browsing

clean-cache: ## Remove what the tests keep between runs (the VM's kernel, base images)
	rm -rf .cache
