package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// percentiles are the points of the curve, as in the Rust client.
var percentiles = []float64{0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100}

// processorTime is what the process has used so far, in user space and in the kernel.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// result is the event of the end.
func (o *outcome) result(elapsed, used time.Duration) (map[string]any, error) {
	slices.Sort(o.latencies)
	at := func(percentile float64) float64 {
		if len(o.latencies) == 0 {
			return 0
		}
		rank := int(math.Ceil(percentile / 100 * float64(len(o.latencies))))
		return float64(o.latencies[max(rank, 1)-1]) / 1e3
	}
	var curve [][2]float64
	for _, percentile := range percentiles {
		curve = append(curve, [2]float64{percentile, at(percentile)})
	}
	resident, err := residentBytes()
	if err != nil {
		return nil, err
	}
	fault := ""
	if o.fault != nil {
		fault = o.fault.Error()
	}
	calls := len(o.latencies) + o.failed
	return map[string]any{
		"event": "result", "calls": calls, "failed": o.failed, "fault": fault, "seconds": elapsed.Seconds(),
		"p50_us": at(50), "p99_us": at(99), "p999_us": at(99.9), "curve": curve,
		"cpu_us":    float64(used) / 1e3 / float64(max(calls, 1)),
		"rss_bytes": resident, "sockets": sockets(),
	}, nil
}

func residentBytes() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	var kib uint64
	if _, err := fmt.Sscan(after, &kib); err != nil {
		return 0, fmt.Errorf("VmRSS: %w", err)
	}
	return kib * 1024, nil
}

// sockets is how many the process has open.
func sockets() int {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	count := 0
	for _, file := range files {
		target, err := os.Readlink("/proc/self/fd/" + file.Name())
		if err == nil && strings.HasPrefix(target, "socket:") {
			count++
		}
	}
	return count
}
