//go:build linux

package main

// This file is the CPU time of the engines that run beside us, so that a chat's whole cost can be seen: they are the
// children of the nido that started this program.

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

var engineNames = []string{"broker", "Postgres", "ClickHouse"}

// stat is a process as /proc/PID/stat tells.
type stat struct {
	pid, parent int
	own, waited time.Duration // of itself, and of children that have ended
	command     string
}

// engineTimes is the CPU time of each engine so far; nothing where the engines are not ours.
func engineTimes() (map[string]time.Duration, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	times := map[string]time.Duration{}
	root := all[os.Getppid()]
	for root.pid > 1 && !strings.Contains(root.command, "\x00engines\x00") {
		root = all[root.parent]
	}
	if root.pid <= 1 {
		return times, nil
	}
	times["broker"] = root.own
	for _, p := range all {
		if p.parent != root.pid {
			continue
		}
		switch {
		case strings.Contains(p.command, "postgres"):
			times["Postgres"] = tree(all, p)
		case strings.Contains(p.command, "clickhouse"):
			times["ClickHouse"] = p.own
		}
	}
	return times, nil
}

func tree(all map[int]stat, root stat) time.Duration {
	sum := root.own + root.waited
	for _, p := range all {
		if p.parent == root.pid {
			sum += tree(all, p)
		}
	}
	return sum
}

func processes() (map[int]stat, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := map[int]stat{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		command, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil {
			continue
		}
		_, rest, _ := bytes.Cut(text, []byte(") "))
		fields := strings.Fields(string(rest))
		if len(fields) < 15 {
			return nil, fmt.Errorf("%s is cut short", file)
		}
		var numbers [15]int64
		for _, i := range []int{1, 11, 12, 13, 14} {
			if numbers[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
				return nil, err
			}
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		all[pid] = stat{
			pid: pid, parent: int(numbers[1]), command: string(command),
			own: time.Duration(numbers[11]+numbers[12]) * tick, waited: time.Duration(numbers[13]+numbers[14]) * tick,
		}
	}
	return all, nil
}
