# All that is needed on a fresh machine: Go, gcc (for the race detector), Node.js with npm, and make.
.DEFAULT_GOAL := build
.PHONY: setup build run test lint generate bench test-kafka

# setup installs the embedded engines; it does nothing when they are there.
setup:
	@infra/engines/setup.sh

build:
	CGO_ENABLED=0 go build -trimpath -o bin/nido ./cmd/nido

run: setup build
	bin/nido dev

# test runs everything on real engines in a directory of its own; each package takes its own databases and topics.
test: setup build
	go vet ./...
	@data="$$(mktemp -d)" && trap 'rm -rf "$$data"' EXIT && \
	bin/nido engines --data "$$data/engines" -- go test -race ./...

lint:
	golangci-lint run

generate:
	go generate ./...

bench:
	go test -run '^$$' -bench . ./bench/...

test-kafka:
	go test -race -tags kafka ./...
