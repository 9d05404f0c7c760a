# All that is needed on a fresh machine: Go, gcc (for the race detector), Node.js with npm, and make.
.DEFAULT_GOAL := build
.PHONY: setup build run test lint generate fresh bench test-kafka faults fuzz

GOLANGCI_LINT := v2.15.0
OAPI_CODEGEN := v2.8.2
lint_tool := .tools/golangci-lint-$(GOLANGCI_LINT)
generate_tool := .tools/oapi-codegen-$(OAPI_CODEGEN)

# setup installs the embedded engines; it does nothing when they are there.
setup:
	@infra/engines/setup.sh

build:
	CGO_ENABLED=0 go build -trimpath -o bin/nido ./cmd/nido

run: setup build
	bin/nido dev

# test checks the code and then runs everything on real engines in a directory of its own; each package takes its own
# databases and topics.
test: setup build lint fresh test/sdk/node_modules/.package-lock.json
	go vet ./...
	@data="$$(mktemp -d)" && trap 'rm -rf "$$data"' EXIT && \
	bin/nido engines --data "$$data/engines" -- go test -race -timeout 20m ./...

# The official clients that the end-to-end tests let talk to agents.
test/sdk/node_modules/.package-lock.json: test/sdk/package-lock.json
	cd test/sdk && npm ci --ignore-scripts --prefer-offline
	@touch $@

# test-kafka runs what touches the log on a real Apache Kafka of three nodes, and kills them in turn. It needs Java 17
# and, the first time, Maven.
test-kafka: setup build
	@infra/kafkatest/setup.sh
	go build -o bin/kafkatest ./infra/kafkatest/run
	@data="$$(mktemp -d)" && trap 'rm -rf "$$data"' EXIT && \
	bin/nido engines --data "$$data/engines" -- bin/kafkatest --data "$$data/kafka" -- sh -c '\
	go test -tags realkafka -count=1 -timeout 10m ./infra/kafka && \
	go test -tags realkafka -count=1 -timeout 10m -run "TestTwoNodes|TestProjectorsAndKafkaNodes" ./test/e2e'

# faults runs the tests that kill and stop things in their full length: 24 kills under 10,000 commands, ten kills under the
# linearizability check, a minute without ClickHouse. About eight minutes. FAULTS="-seed 7" repeats a run's choices.
faults: setup build
	go test -count=1 -timeout 20m -v -run '$(full_faults)' ./test/e2e -full $(FAULTS)

full_faults := TestNothingAcknowledgedIsLostOrDoubled|TestFewStreamsUnderManyClients|TestChatsDoNotNotice

# lint also breaks each import rule on purpose.
lint: $(lint_tool)
	$(lint_tool) run --allow-parallel-runners
	.ci/imports $(lint_tool)

generate: $(generate_tool)
	cd api && ../$(generate_tool) -config oapi-codegen.yaml openapi.yaml

# fresh fails where a generated file is not what its source makes.
fresh: $(generate_tool)
	@was="$$(mktemp)" && trap 'rm -f "$$was"' EXIT && cp api/openapi.gen.go "$$was" && $(MAKE) --no-print-directory generate && \
	(cmp -s "$$was" api/openapi.gen.go || { cp "$$was" api/openapi.gen.go; echo "api/openapi.gen.go is stale: run make generate" >&2; exit 1; })

# fuzz asks a node for everything in the contract, by a tool that knows nothing of us. It needs Python 3.10 or later.
fuzz: setup build
	test/fuzz/run.sh $(FUZZ)

bench: setup build
	@data="$$(mktemp -d)" && trap 'rm -rf "$$data"' EXIT && \
	bin/nido engines --data "$$data/engines" -- go run ./bench $(BENCH)

# Without optimisation or debugging tables the linter builds in two minutes instead of five.
$(lint_tool):
	@mkdir -p .tools/new
	GOBIN="$(CURDIR)/.tools/new" CGO_ENABLED=0 go install -gcflags='all=-N -l' -ldflags='-s -w' github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	@mv .tools/new/golangci-lint $@

$(generate_tool):
	@mkdir -p .tools/new
	GOBIN="$(CURDIR)/.tools/new" CGO_ENABLED=0 go install github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@$(OAPI_CODEGEN)
	@mv .tools/new/oapi-codegen $@
