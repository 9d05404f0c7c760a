// Package requestlog stands behind an answered request: a bounded queue on each node takes its entry without waiting,
// bundles travel through the requests topic, and a sink writes them into ClickHouse.
//
// The request log is telemetry, not a fold. Nothing waits for it, and where it cannot keep up it loses entries; but it
// counts what it loses, and says so in the log itself. On its way everything personal is sealed, so that destroying a
// conversation's data key takes its texts out of the topic too.
package requestlog
