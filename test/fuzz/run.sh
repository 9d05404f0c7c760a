#!/usr/bin/env bash
# Lets schemathesis ask a node of its own for everything in its document: first the management API, then an agent's host.
# Usage: test/fuzz/run.sh [SECONDS], for each of the two. Needs Python 3.10 or later; the packages are pinned with their
# hashes and kept in .tools.
#
# What ends keys or stops accounts is left out: it would end the key that everything is asked with. So is the check that
# what fits its schema is accepted: a new Idempotency-Key for every request is more than schemas can say, and
# TestTheWholeContractFuzzed checks it. And so are the two checks that follow what one request made to another: it is the Go
# tests' part (tenancy_test.go) to do that with more than one account. All other checks are on without being named: one that
# is named here is on for the operations that schemathesis.toml leaves it out of, too.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds="${1:-180}"
venv=.tools/schemathesis
if ! cmp -s test/fuzz/requirements.txt "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --require-hashes -r test/fuzz/requirements.txt
  cp test/fuzz/requirements.txt "$venv/requirements.txt"
fi
data="$(mktemp -d)"
port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
base="http://127.0.0.1:$port"
bin/nido dev --data "$data" --listen "127.0.0.1:$port" > "$data.log" 2>&1 &
node=$!
trap 'kill "$node" && wait "$node" || true; rm -rf "$data"' EXIT
for _ in $(seq 120); do
  curl -sf "$base/readyz" > "$data.log.ready" && break
  sleep 0.5
done
key="$(cat "$data/root.key")"
curl -sf "$base/api/agents" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' -d '{"name": "Ventas", "slug": "ventas", "model": "echo"}' > "$data.log.agent"

ask() {
  "$venv/bin/schemathesis" --config-file test/fuzz/schemathesis.toml run "$base/openapi.json" --url "$base" -H "Authorization: Bearer $key" --max-time "$seconds" --continue-on-failure \
    --exclude-checks "positive_data_acceptance,use_after_free,ensure_resource_availability$1" --suppress-health-check all \
    --request-timeout 20 --warnings off "${@:2}"
}
agent_host='^(chatOnHost|chatStreamOnHost|chatCompletionOnHost|listModelsOnHost|getModelOnHost)$'
ending='^(revokeKey|deleteKey|rotateKey|suspendAccount|eraseAccount|deleteAccount|deleteAgent|pauseAgent)$'
failed=0
ask "" --exclude-operation-id-regex "$agent_host|$ending" || failed=1
ask ",response_schema_conformance" --include-operation-id-regex "$agent_host" -H "Host: ventas.localhost:$port" || failed=1
exit "$failed"
