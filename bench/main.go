//go:build linux

// Command bench measures Nido beside the story: each figure is a ratio of two things measured in the same run, one
// after the other and again, since machines are shared and noisy. It runs beside the embedded engines:
//
//	make bench                      everything
//	make bench BENCH="-quick"       everything, briefly
//	make bench BENCH="-row 1 -row 8"
//
// One process does one thing: the references (roles.go), the load generator (load.go) and the nodes under test
// (cluster.go) are processes of their own, whose CPU time and memory /proc tells: hence only on Linux.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// settings is how long and how often to measure.
type settings struct {
	nido     string
	against  string
	quick    bool
	rounds   int
	span     time.Duration // of one measurement
	rssLoad  time.Duration
	rssHold  time.Duration
	catchUp  int // turns that the projectors catch up with at least
	streams  int // that are held at once
	planted  int // rows that are searched
	events   int // commits that are rebuilt and verified
	rows     []int
	out      string
	profile  string
	keepLogs bool
	keep     string // a directory for our own files, where they outlive this run
}

// row measures one or more lines of the table.
type row struct {
	numbers []int
	run     func(context.Context, *bench) error
}

var rows = []row{
	{[]int{1, 2}, chatThroughput},
	{[]int{3}, chatLatency},
	{[]int{4}, chatHeld},
	{[]int{5}, spokenStreams},
	{[]int{6}, heldStreams},
	{[]int{7}, memory},
	{[]int{8}, createAgents},
	{[]int{11}, lag},
	{[]int{9}, postgresCatchUp},
	{[]int{10}, clickHouseCatchUp},
	{[]int{14}, refusals},
	{[]int{16}, overload},
	{[]int{17}, operations},
	{[]int{12}, logSearch},
	{[]int{13}, statistics},
	{[]int{0}, startOfDev},
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == roleFlag {
		playRole(os.Args[2], os.Args[3:])
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, parse()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() settings {
	var s settings
	flag.StringVar(&s.nido, "nido", "bin/nido", "the built command under test")
	flag.StringVar(&s.against, "against", "", "another build, to be measured in turn with it in rows 1, 2, 5, 6, 8 and 16: nodes of both roles change over")
	flag.BoolVar(&s.quick, "quick", false, "measure briefly: about two minutes in all, and not to be quoted")
	flag.IntVar(&s.rounds, "rounds", 5, "interleaved rounds of each cell")
	flag.DurationVar(&s.span, "span", 6*time.Second, "length of one measurement")
	flag.DurationVar(&s.rssLoad, "rss-load", time.Minute, "full load before memory is read")
	flag.DurationVar(&s.rssHold, "rss-hold", 10*time.Minute, "how long memory has to stay flat under load afterwards")
	flag.IntVar(&s.catchUp, "catch-up", 20_000, "chat turns in the log that the projectors catch up with")
	flag.IntVar(&s.streams, "streams", 2000, "streams that row 6 holds at once")
	flag.IntVar(&s.events, "events", 1_000_000, "commits that row 17 rebuilds from and verifies")
	flag.IntVar(&s.planted, "planted", 5_000_000, "rows that are searched and counted in rows 12 and 13")
	flag.StringVar(&s.out, "out", "", "write the results as JSON to this file")
	flag.StringVar(&s.keep, "keep", "", "keep the key of the installation in this directory: another run on the same engines finds it, and the rows that this one made up")
	flag.StringVar(&s.profile, "profile", "", "let the node under test write a CPU profile to this file: the API node, or in rows 9 and 10 the projector; with one -row, since every node that starts writes it anew")
	flag.BoolVar(&s.keepLogs, "v", false, "show what the nodes log")
	flag.Func("row", "measure only this row of the table (0: the start of nido dev); may be given more than once", func(text string) error {
		number, err := strconv.Atoi(text)
		s.rows = append(s.rows, number)
		return err
	})
	flag.Parse()
	if s.quick {
		s.rounds, s.span, s.catchUp = min(s.rounds, 3), min(s.span, 1200*time.Millisecond), min(s.catchUp, 2000)
		s.planted, s.events, s.streams = min(s.planted, 500_000), min(s.events, 20_000), min(s.streams, 2000)
		s.rssLoad, s.rssHold = min(s.rssLoad, 5*time.Second), min(s.rssHold, 5*time.Second)
	}
	return s
}

func run(ctx context.Context, s settings) (err error) {
	b := &bench{settings: s, results: results{
		Began: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), MemoryMB: machineMemory(), Quick: s.quick,
		Rounds: s.rounds, Span: s.span.String(), LoadBefore: loadAverage(),
	}}
	defer b.close()
	for _, row := range rows {
		if len(s.rows) > 0 && !slices.ContainsFunc(row.numbers, func(n int) bool { return slices.Contains(s.rows, n) }) {
			continue
		}
		if err = row.run(ctx, b); err != nil {
			err = fmt.Errorf("row %v: %w", row.numbers, err)
			break
		}
		if ctx.Err() != nil {
			break
		}
	}
	b.results.LoadAfter = loadAverage()
	b.results.print(os.Stdout)
	if s.out != "" {
		if writing := b.results.write(s.out); err == nil {
			err = writing
		}
	}
	return err
}
