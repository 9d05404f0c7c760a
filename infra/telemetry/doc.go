// Package telemetry stands beside the story: it counts, for Prometheus, and traces, for OpenTelemetry, what the other
// packages tell their observers. What they tell is in words of ours; so no label of a metric and no attribute of a span
// can hold a prompt, a secret, an account or a path.
package telemetry
