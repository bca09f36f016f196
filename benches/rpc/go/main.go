// grpc-go beside the other transports: the same flags, events and result as the client in ../rust.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"
)

// load says which calls are made.
type load struct {
	payload  int
	stream   bool
	inFlight int
	calls    int
	warmUp   int
	rate     float64
}

// lab is where the servers are, as the Rust client takes it.
type lab struct {
	Servers []string `json:"servers"`
	Control string   `json:"control"`
	Service string   `json:"service"`
	Node    string   `json:"node"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	name := flag.String("case", "", "grpc-go or grpc-go-xds")
	where := flag.String("lab", "", "servers and control plane, as JSON")
	payload := flag.Int("payload", 128, "bytes in each message")
	shape := flag.String("shape", "unary", "unary or stream")
	inFlight := flag.Int("in-flight", 16, "calls at a time")
	calls := flag.Int("calls", 10000, "calls that count")
	warmUp := flag.Int("warm-up", 2000, "calls before them")
	threads := flag.Int("threads", 1, "processors of Go's scheduler")
	rate := flag.Float64("rate", 0, "calls begun in a second, whether others are answered or not")
	tls := flag.String("tls", "", "folder with certificate.pem, key.pem and roots.pem")
	limit := flag.Int("limit", 60, "seconds after which the program gives up")
	flag.Parse()
	if flag.NArg() > 0 || *shape != "unary" && *shape != "stream" || *inFlight < 1 {
		return fmt.Errorf("not understood: %v", os.Args[1:])
	}
	if *rate > 0 && *shape == "stream" {
		return fmt.Errorf("--rate is of unary calls")
	}
	runtime.GOMAXPROCS(*threads)
	var lab lab
	if err := json.Unmarshal([]byte(*where), &lab); err != nil {
		return fmt.Errorf("--lab: %w", err)
	}
	load := &load{*payload, *shape == "stream", *inFlight, *calls, *warmUp, *rate}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*limit)*time.Second)
	defer cancel()
	channels, err := dial(*name, &lab, *tls)
	if err != nil {
		return err
	}
	callers := make([]*caller, load.inFlight)
	for i := range callers {
		callers[i] = newCaller(channels, i, load)
	}
	if before := closedLoop(ctx, callers, load.warmUp); before.failed > 0 {
		return fmt.Errorf("warm-up: %d calls failed: %w", before.failed, before.fault)
	}
	say(map[string]any{"event": "begin"})
	// What starts us reads the servers' clocks, then says so; or there is nobody.
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	used, start := processorTime(), time.Now()
	var measured *outcome
	if load.rate > 0 {
		measured = openLoop(ctx, channels, load)
	} else {
		measured = closedLoop(ctx, callers, load.calls)
	}
	elapsed := time.Since(start)
	used = processorTime() - used
	say(map[string]any{"event": "end"})
	if ctx.Err() != nil {
		return fmt.Errorf("not done within %d s", *limit)
	}
	result, err := measured.result(elapsed, used)
	if err != nil {
		return err
	}
	result["case"] = *name
	say(result)
	return nil
}

func say(event map[string]any) {
	text, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}
