// Command nido hosts AI agents behind an API. It is one binary: each command is a struct in a file of its own.
package main

import (
	"context"
	"log/slog"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // statistics by day need time zones, and minimal images have none

	"github.com/alecthomas/kong"

	"github.com/nidohq/nido/infra/engines"
)

// headroom is kept and touched by nobody, and therefore takes no memory: with a live heap of a few megabytes the collector
// would run many times a second for nothing. It lets garbage grow by garbagePercent of it, a constant. Garbage beside what
// lives, which is a factor on every held stream, can be a quarter then instead of Go's whole. Unlike with GOGC=off and a
// memory limit there is no limit to be caught under.
const (
	headroom       = 128 << 20
	garbagePercent = 25
	goDefault      = 100
)

// commandTree is all that nido can be told to do.
type commandTree struct {
	processSettings
	Dev       devCommand       `cmd:"" help:"Run everything in one process: the embedded engines and a node with every role."`
	Serve     serveCommand     `cmd:"" help:"Run a node against external engines."`
	Bootstrap bootstrapCommand `cmd:"" help:"Open an installation on external engines: account default and its administrator key."`
	Ready     readyCommand     `cmd:"" help:"Ask the node on this machine whether it can serve chat."`
	Log       logCommand       `cmd:"" help:"Print events as JSON lines."`
	Rebuild   rebuildCommand   `cmd:"" help:"Fold read models anew from the log while the old ones serve, and switch."`
	Verify    verifyCommand    `cmd:"" help:"Fold the log afresh and compare the read models with it; exits 1 where they differ."`
	Skip      skipCommand      `cmd:"" help:"Pass over a record that no projector can read."`
	Backup    backupCommand    `cmd:"" help:"Copy what cannot be folded from anything else into a directory, while nodes serve."`
	Restore   restoreCommand   `cmd:"" help:"Put a backup into empty stores."`
	Engines   enginesCommand   `cmd:"" help:"Run only the embedded engines, or a command beside them."`
}

func main() {
	engines.RunChild() // does not return where this process is the ClickHouse child
	untouched := make([]byte, headroom)
	defer runtime.KeepAlive(untouched)
	if set := debug.SetGCPercent(garbagePercent); set != goDefault { // GOGC is the operator's word
		debug.SetGCPercent(set)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	var commands commandTree
	command := kong.Parse(&commands, kong.Name("nido"), kong.Description("Host AI agents behind an API."),
		kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)))
	logger := commands.logger()
	slog.SetDefault(logger) // what libraries log
	command.FatalIfErrorf(command.Run(logger))
}
