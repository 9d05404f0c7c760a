package telemetry

// This file stands at the write side: commands, what the log and the fold say to them, and turns.

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nidohq/nido/commands"
)

// commandMetrics implements commands.Observer.
type commandMetrics struct {
	commands, lost, appends, waits *prometheus.CounterVec
	commandTime                    *prometheus.HistogramVec
	appendTime, waitTime           prometheus.Observer
}

func newCommandMetrics(f factory) commandMetrics {
	return commandMetrics{
		commands: f.counter("commands_total", "Commands by name and outcome.", "command", "outcome"),
		lost:     f.counter("command_conflicts_total", "Commits that lost their version to another one, so that the command was decided again.", "command"),
		appends: known(f.counter("appends_total", "Commits that were handed to the log, by what it said.", "outcome"),
			commands.OutcomeAccepted, commands.OutcomeUnknown, commands.OutcomeUnavailable, commands.OutcomeFailed),
		waits: known(f.counter("commit_waits_total", "Waits for the fold's word on a commit, by that word.", "outcome"),
			commands.OutcomeAccepted, commands.OutcomeLost, commands.OutcomeUnknown),
		commandTime: f.histogram("command_duration_seconds", "From a command to its outcome.", stepBuckets, "command"),
		appendTime:  f.histogram("append_duration_seconds", "From handing a commit to the log to its acknowledgement.", stepBuckets).WithLabelValues(),
		waitTime:    f.histogram("commit_wait_seconds", "From the log's acknowledgement of a commit to the fold's word on it.", stepBuckets).WithLabelValues(),
	}
}

// Commanded implements commands.Observer.
func (m *commandMetrics) Commanded(command, outcome string, lost int, took time.Duration) {
	m.commands.WithLabelValues(command, outcome).Inc()
	m.commandTime.WithLabelValues(command).Observe(took.Seconds())
	if lost > 0 {
		m.lost.WithLabelValues(command).Add(float64(lost))
	}
}

// Appended implements commands.Observer.
func (m *commandMetrics) Appended(outcome string, took time.Duration) {
	m.appends.WithLabelValues(outcome).Inc()
	m.appendTime.Observe(took.Seconds())
}

// Awaited implements commands.Observer.
func (m *commandMetrics) Awaited(outcome string, took time.Duration) {
	m.waits.WithLabelValues(outcome).Inc()
	m.waitTime.Observe(took.Seconds())
}

// turnMetrics implements commands.TurnObserver.
type turnMetrics struct {
	started               prometheus.Counter
	ended                 *prometheus.CounterVec
	firstToken, replyTime prometheus.Observer
	messageWaits          *prometheus.CounterVec
	messageWait           prometheus.Observer
}

func newTurnMetrics(f factory) turnMetrics {
	return turnMetrics{
		started: f.counter("turns_started_total", "Turns whose message was accepted.").WithLabelValues(),
		ended: known(f.counter("turns_ended_total", "Turns whose end this node brought in, by how they ended.", "end"),
			commands.EndCompleted, commands.EndFailed, commands.EndCancelled, commands.EndInterrupted),
		firstToken: f.histogram("turn_first_token_seconds", "From asking the model to its first word, of whole replies.", turnBuckets).WithLabelValues(),
		messageWaits: known(f.counter("turn_waits_total", "Messages that waited for a busy conversation, by how that ended: free, busy (too long, or too many before it), left or failed.", "outcome"),
			commands.WaitFree, commands.WaitBusy, commands.WaitLeft, commands.WaitFailed),
		messageWait: f.histogram("turn_wait_seconds", "How long messages waited for a busy conversation.", turnBuckets).WithLabelValues(),
		replyTime:   f.histogram("turn_reply_seconds", "From asking the model to the end of its reply, of whole replies.", turnBuckets).WithLabelValues(),
	}
}

// TurnStarted implements commands.TurnObserver.
func (m *turnMetrics) TurnStarted() { m.started.Inc() }

// MessageWaited is told of each message that waited for a busy conversation.
func (m *turnMetrics) MessageWaited(how string, waited time.Duration) {
	m.messageWaits.WithLabelValues(how).Inc()
	m.messageWait.Observe(waited.Seconds())
}

// TurnEnded implements commands.TurnObserver.
func (m *turnMetrics) TurnEnded(end string) { m.ended.WithLabelValues(end).Inc() }

// Replied implements commands.TurnObserver.
func (m *turnMetrics) Replied(first, whole time.Duration) {
	m.firstToken.Observe(first.Seconds())
	m.replyTime.Observe(whole.Seconds())
}
