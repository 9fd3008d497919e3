// Package process reads what processes use of the machine, from /proc and from their exit.
package process

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Memory is the resident memory of a process and the most it ever was, in bytes.
func Memory(pid int) (now, peak int64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, 0, err
	}
	found := 0
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		name, v, _ := strings.Cut(s.Text(), ":")
		var to *int64
		switch name {
		case "VmRSS":
			to = &now
		case "VmHWM":
			to = &peak
		default:
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s of process %d: %w", name, pid, err)
		}
		*to = kb << 10
		found++
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("the system does not tell the memory of process %d", pid)
	}
	return now, peak, nil
}

// ticks a second, in which the system counts the processor time of other processes: fixed at 100 on Linux.
const ticks = 100

// CPUOf is the processor time of a process, to a hundredth of a second.
func CPUOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name before may hold anything
	if len(fields) < 13 {
		return 0, fmt.Errorf("the system does not tell the processor time of process %d", pid)
	}
	var total time.Duration
	for _, f := range fields[11:13] { // user and system
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		total += time.Duration(n) * (time.Second / ticks)
	}
	return total, nil
}

// CPU is the processor time of this process.
func CPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Exit is what a process that has ended used: processor time, and the most resident memory in bytes.
func Exit(s *os.ProcessState) (cpu time.Duration, peak int64) {
	cpu = s.UserTime() + s.SystemTime()
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		peak = u.Maxrss << 10
	}
	return cpu, peak
}
