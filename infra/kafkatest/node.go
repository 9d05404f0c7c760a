//go:build linux

package kafkatest

// This file stands at one node: its settings, and its process.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// clusterID is any 16 bytes in base64; the nodes must have the same.
const clusterID = "bmlkby1rYWZrYS10ZXN0cw"

// settings are those of a small production cluster, but for what only makes tests wait or machines full. Time-outs by
// which the cluster notices a dead node are Kafka's own: that is what is to be seen.
const settings = `process.roles=broker,controller
default.replication.factor=3
min.insync.replicas=2
auto.create.topics.enable=false
unclean.leader.election.enable=false
offsets.topic.replication.factor=3
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=3
group.initial.rebalance.delay.ms=0
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
log.index.size.max.bytes=1048576
`

const logging = `status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.start.name = kafka.server
logger.start.level = info
`

// node is one broker and controller.
type node struct {
	id               int
	dir              string
	port, controller int

	mu      sync.Mutex
	process *os.Process   // nil where there is none
	ended   chan struct{} // closed when the process is gone
}

func (n *node) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port)) }

// file names one of the node's own files.
func (n *node) file(name string) string { return filepath.Join(n.dir, name) }

// configure writes what the node reads at its start.
func (n *node) configure(all []*node) error {
	var voters []string
	for _, other := range all {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", other.id, other.controller))
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return fmt.Errorf("create kafka's folder: %w", err)
	}
	own := fmt.Sprintf("node.id=%d\ncontroller.quorum.voters=%s\nlisteners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d\n"+
		"advertised.listeners=PLAINTEXT://127.0.0.1:%d\nlog.dirs=%s\n",
		n.id, strings.Join(voters, ","), n.port, n.controller, n.port, n.file("data"))
	return errors.Join(
		os.WriteFile(n.file("server.properties"), []byte(settings+own), 0o600),
		os.WriteFile(n.file("log4j2.properties"), []byte(logging), 0o600),
	)
}

// java is a virtual machine that starts fast, stays small, and writes to the node's log.
func (n *node) java(jars, class string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(n.file("kafka.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open kafka's log: %w", err)
	}
	cmd := exec.Command("java", append([]string{
		"-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError",
		"-Dlog4j2.configurationFile=" + n.file("log4j2.properties"), "-cp", filepath.Join(jars, "*"), class,
	}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, log, log
	// A terminal's Ctrl-C must not reach it, and it must not outlive us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

func (n *node) format(ctx context.Context, jars string) error {
	if err := n.launch(jars, "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", n.file("server.properties")); err != nil {
		return err
	}
	n.mu.Lock()
	ended := n.ended
	n.mu.Unlock()
	select {
	case <-ended:
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), n.kill())
	}
	if _, err := os.Stat(n.file("data/meta.properties")); err != nil {
		return fmt.Errorf("kafka node %d was not formatted, its log ends:\n%s", n.id, n.tail())
	}
	return nil
}

// start returns once the process runs; whether it serves is for the cluster to say.
func (n *node) start(ctx context.Context, jars string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return n.launch(jars, "kafka.Kafka", n.file("server.properties"))
}

func (n *node) launch(jars, class string, args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.goneLocked() {
		return fmt.Errorf("kafka node %d runs already", n.id)
	}
	cmd, err := n.java(jars, class, args...)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The parent-death signal comes when the starting thread ends. Locked and waiting here, it ends after the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		cmd.Stdout.(io.Closer).Close()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start kafka node %d: %w", n.id, err)
	}
	n.process, n.ended = cmd.Process, ended
	return nil
}

func (n *node) gone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.goneLocked()
}

func (n *node) goneLocked() bool {
	if n.process == nil {
		return true
	}
	select {
	case <-n.ended:
		return true
	default:
		return false
	}
}

// kill ends the node at once and waits until it is dead. One that does not run is no error.
func (n *node) kill() error { return n.end(context.Background(), syscall.SIGKILL) }

// stop asks the node to end; where the context ends first, it is killed.
func (n *node) stop(ctx context.Context) error {
	err := n.end(ctx, syscall.SIGTERM)
	if err != nil {
		return errors.Join(err, n.kill())
	}
	return nil
}

func (n *node) end(ctx context.Context, signal syscall.Signal) error {
	n.mu.Lock()
	process, ended, gone := n.process, n.ended, n.goneLocked()
	n.mu.Unlock()
	if gone {
		return nil
	}
	if err := process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal kafka node %d: %w", n.id, err)
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kafka node %d did not end: %w", n.id, context.Cause(ctx))
	}
}

// tail is the end of the node's log.
func (n *node) tail() string {
	text, err := os.ReadFile(n.file("kafka.log"))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(text[max(0, len(text)-4<<10):])
}
