//go:build linux

package main

// This file is the processes that are measured: how they start and end, and what /proc says about them.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child that serves HTTP.
type process struct {
	name string
	cmd  *exec.Cmd
	addr string // host:port
	gone chan struct{}
	err  error
}

// launch starts a child and waits until a path of it answers 200.
func launch(ctx context.Context, name, ready string, cmd *exec.Cmd, addr string) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, addr: addr, gone: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.gone)
	}()
	if err := p.await(ctx, ready, time.Minute); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *process) await(ctx context.Context, path string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	client := http.Client{Timeout: 2 * time.Second}
	return until(ctx, 5*time.Millisecond, func() (bool, error) {
		select {
		case <-p.gone:
			return false, fmt.Errorf("%s ended before it served: %w", p.name, p.err)
		default:
		}
		response, err := client.Get("http://" + p.addr + path)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK, nil
	})
}

// until asks again and again; it ends with the context's error.
func until(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if is, err := done(); is || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// stop ends the child gently, and otherwise by force.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // one that is gone has been waited for
	select {
	case <-p.gone:
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.gone
	}
}

// freeAddress is a port of the loopback interface that nobody had a moment ago.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// tick is the unit of /proc/PID/stat's times: USER_HZ, which is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpu is the user and system time of the process so far.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(stat, []byte(") ")) // the command's name may hold anything
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is cut short")
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, err
}

// quietCPU waits until what a load has left behind is done: less than two ticks in 300 ms.
func (p *process) quietCPU(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	last, err := p.cpu()
	if err != nil {
		return 0, err
	}
	for {
		select {
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-time.After(300 * time.Millisecond):
		}
		now, err := p.cpu()
		if err != nil || now-last < 2*tick {
			return now, err
		}
		last = now
	}
}

// rss is the resident memory in bytes.
func (p *process) rss() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return kilobytes(status, "VmRSS:")
}

func kilobytes(text []byte, name string) (int64, error) {
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			value, err := strconv.ParseInt(fields[1], 10, 64)
			return value << 10, err
		}
	}
	return 0, fmt.Errorf("there is no %s", name)
}

func machineMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	total, err := kilobytes(text, "MemTotal:")
	if err != nil {
		return 0
	}
	return total >> 20
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 3 {
		return ""
	}
	return strings.Join(fields[:3], " ")
}
