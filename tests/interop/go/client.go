package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	_ "google.golang.org/grpc/xds"
)

// pace says which calls are made and when.
type pace struct {
	n           uint64
	duration    time.Duration
	qps         float64
	concurrency int
}

// client calls a target through one channel.
func client(args []string) error {
	set := flagSet("client")
	target := set.String("target", "", "xds:///name or host:port")
	creds := set.String("creds", "insecure", "insecure or xds")
	authority := set.String("authority", "", "authority override")
	waitForReady := set.Bool("wait-for-ready", false, "wait for a connection")
	adminAddress := set.String("admin", "", "address of CSDS")
	linger := set.Int("linger-ms", 0, "keep the channel open so long")
	pace := &pace{}
	set.Uint64Var(&pace.n, "n", 10, "calls in all")
	durationMs := set.Int("duration-ms", 0, "start no call after so long")
	set.IntVar(&pace.concurrency, "concurrency", 1, "calls in flight")
	set.Float64Var(&pace.qps, "qps", 0, "calls per second")
	calls := callFlags(set)
	if err := parse(set, args); err != nil {
		return err
	}
	pace.duration = time.Duration(*durationMs) * time.Millisecond
	if *target == "" {
		return fmt.Errorf("--target is missing")
	}
	if !(pace.qps >= 0) || math.IsInf(pace.qps, 0) {
		return fmt.Errorf("--qps: neither negative nor infinite rates can be kept")
	}
	if err := calls.check(); err != nil {
		return err
	}
	security, err := clientCredentials(*creds)
	if err != nil {
		return err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(security),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.WaitForReady(*waitForReady)),
	}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	channel, err := grpc.NewClient(*target, options...)
	if err != nil {
		return err
	}
	defer channel.Close()
	told := terminated()
	ready := fields{}
	if err := openAdmin(*adminAddress, ready); err != nil {
		return err
	}
	say("ready", ready)
	run := &run{calls: calls, pace: pace, start: time.Now(), codes: map[string]int{}, servers: map[string]int{}}
	run.all(channel, told)
	say("summary", run.summary())
	select {
	case <-told:
	case <-time.After(time.Duration(*linger) * time.Millisecond):
	}
	return nil
}

func clientCredentials(name string) (credentials.TransportCredentials, error) {
	switch name {
	case "insecure":
		return insecure.NewCredentials(), nil
	case "xds":
		return xdscreds.NewClientCredentials(
			xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	}
	return nil, fmt.Errorf("--creds: %q is neither insecure nor xds", name)
}

// run is the calls of one process.
type run struct {
	calls *calls
	pace  *pace
	start time.Time
	next  atomic.Uint64

	mu        sync.Mutex
	codes     map[string]int
	servers   map[string]int
	latencies []float64
}

// all makes the calls, some of them at the same time.
func (r *run) all(channel *grpc.ClientConn, told <-chan struct{}) {
	var workers sync.WaitGroup
	for range max(r.pace.concurrency, 1) {
		workers.Go(func() { r.work(channel, told) })
	}
	workers.Wait()
}

func (r *run) work(channel *grpc.ClientConn, told <-chan struct{}) {
	for {
		i := r.next.Add(1) - 1
		start := time.Since(r.start)
		if r.pace.qps > 0 {
			start = max(start, time.Duration(float64(i)/r.pace.qps*float64(time.Second)))
		}
		if r.pace.n > 0 && i >= r.pace.n || r.pace.duration > 0 && start > r.pace.duration {
			return
		}
		select {
		case <-told:
			return
		case <-time.After(start - time.Since(r.start)):
		}
		select {
		case <-told:
			return
		default:
		}
		begun := time.Now()
		outcome := r.calls.call(context.Background(), channel, i)
		r.record(i, outcome, begun, milliseconds(time.Since(begun)))
	}
}

func (r *run) record(i uint64, outcome *outcome, begun time.Time, latency float64) {
	event := outcome.fields(r.calls.printMetadata)
	event["i"] = i
	event["method"] = r.calls.method
	event["latency_ms"] = latency
	event["start_ms"] = wallClock(begun)
	say("rpc", event)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.codes[outcome.code]++
	if outcome.code == "OK" {
		r.servers[outcome.server]++
	}
	r.latencies = append(r.latencies, latency)
}

func (r *run) summary() fields {
	latencies := slices.Sorted(slices.Values(r.latencies))
	at := func(share int) any {
		if len(latencies) == 0 {
			return nil
		}
		return latencies[min(len(latencies)*share/100, len(latencies)-1)]
	}
	return fields{
		"total": len(latencies), "ok": r.codes["OK"],
		"codes": maps.Clone(r.codes), "servers": maps.Clone(r.servers),
		"latency_ms": fields{"p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)},
		"elapsed_ms": milliseconds(time.Since(r.start)),
	}
}
