//go:build linux && amd64 && !noengines

// Below the story: the ClickHouse child, seen from inside.

package engines

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/ebitengine/purego"
)

const (
	// childVariable marks a process as the ClickHouse child; its arguments are the library and ClickHouse's own.
	childVariable = "NIDO_ENGINES_CHILD"
	// orphanGrace is how long a child may take to end by itself after its parent has died.
	orphanGrace = 10 * time.Second
)

// runChild turns a process that was started as the ClickHouse child into ClickHouse and never returns from that.
func runChild() {
	if os.Getenv(childVariable) != "clickhouse" {
		return
	}
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "the clickhouse child needs the library and its arguments")
		os.Exit(2)
	}
	// A terminal's signals belong to the parent, which ends this process in its turn by closing standard input.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	go endWithParent(os.Getppid())
	if err := serveLibrary(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// endWithParent is the second rope: standard input ends with the parent and ClickHouse with it, but a ClickHouse
// that hangs while it stops would otherwise hold the data directory's lock for ever.
func endWithParent(parent int) {
	for os.Getppid() == parent {
		time.Sleep(time.Second)
	}
	time.Sleep(orphanGrace)
	fmt.Fprintln(os.Stderr, "clickhouse did not end after its parent; ending it")
	os.Exit(3)
}

// serveLibrary loads libchdb and runs clickhouse-local's command line in it until the last statement is done.
func serveLibrary(library string, args []string) error {
	runtime.LockOSThread()
	handle, err := purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("load %s: %w", library, err)
	}
	// ClickHouse's fault handlers and the Go runtime's do not live together: with both, the first fault hangs.
	var setSignalHandlers func(enabled int32)
	purego.RegisterLibFunc(&setSignalHandlers, handle, "chdb_set_signal_handlers_enabled")
	setSignalHandlers(0)

	argv := make([]*byte, 0, len(args)+2)
	for _, arg := range append([]string{"clickhouse"}, args...) {
		text, err := syscall.BytePtrFromString(arg)
		if err != nil {
			return fmt.Errorf("argument of clickhouse: %w", err)
		}
		argv = append(argv, text)
	}
	var run func(argc int32, argv **byte) uintptr
	var resultError func(result uintptr) string
	purego.RegisterLibFunc(&run, handle, "chdb_query_cmdline")
	purego.RegisterLibFunc(&resultError, handle, "chdb_result_error")
	argc := int32(len(argv))
	argv = append(argv, nil)
	result := run(argc, &argv[0])
	runtime.KeepAlive(argv)
	if result == 0 {
		return nil
	}
	if text := resultError(result); text != "" {
		return fmt.Errorf("clickhouse: %s", text)
	}
	return nil
}
