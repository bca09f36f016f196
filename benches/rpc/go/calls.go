package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// message has the wire form of bench.Message: bytes, as field 1.
type message = wrapperspb.BytesValue

var description = &grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}

// caller makes one call after the other. With streams, a call is a message on its stream and the
// answer to it.
type caller struct {
	channels []*grpc.ClientConn
	next     int
	request  *message
	stream   bool
	open     grpc.ClientStream
}

func newCaller(channels []*grpc.ClientConn, number int, load *load) *caller {
	payload := make([]byte, load.payload)
	for i := range payload {
		payload[i] = 7
	}
	return &caller{channels: channels, next: number, request: &message{Value: payload}, stream: load.stream}
}

func (c *caller) call(ctx context.Context) error {
	answer := &message{}
	err := c.exchange(ctx, answer)
	if err == nil && len(answer.Value) != len(c.request.Value) {
		err = fmt.Errorf("an answer of %d bytes", len(answer.Value))
	}
	return err
}

func (c *caller) exchange(ctx context.Context, answer *message) error {
	if !c.stream {
		c.next++
		channel := c.channels[c.next%len(c.channels)]
		return channel.Invoke(ctx, "/bench.Echo/Unary", c.request, answer, grpc.WaitForReady(true))
	}
	if c.open == nil {
		channel := c.channels[c.next%len(c.channels)]
		open, err := channel.NewStream(ctx, description, "/bench.Echo/Stream", grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		c.open = open
	}
	err := c.open.SendMsg(c.request)
	if err == nil {
		err = c.open.RecvMsg(answer)
	}
	if err != nil {
		c.open = nil
	}
	return err
}

// outcome is what came of the calls of one phase.
type outcome struct {
	mu        sync.Mutex
	latencies []time.Duration
	failed    int
	fault     error
}

func (o *outcome) add(latencies []time.Duration, failed int, fault error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.latencies = append(o.latencies, latencies...)
	o.failed += failed
	if o.fault == nil {
		o.fault = fault
	}
}

// closedLoop has each caller begin its next call once the last one is answered.
func closedLoop(ctx context.Context, callers []*caller, calls int) *outcome {
	var left atomic.Int64
	left.Store(int64(calls))
	all := &outcome{}
	var running sync.WaitGroup
	for _, caller := range callers {
		running.Go(func() {
			var latencies []time.Duration
			var fault error
			failed := 0
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				begun := time.Now()
				if err := caller.call(ctx); err != nil {
					failed, fault = failed+1, err
					continue
				}
				latencies = append(latencies, time.Since(begun))
			}
			all.add(latencies, failed, fault)
		})
	}
	running.Wait()
	return all
}

// mostOpen is how many calls may be under way in an open loop; those beyond have failed.
const mostOpen = 10_000

// openLoop begins calls at a fixed rate; a call's time counts from when it was due.
func openLoop(ctx context.Context, channels []*grpc.ClientConn, load *load) *outcome {
	all := &outcome{}
	var open atomic.Int64
	var running sync.WaitGroup
	start := time.Now()
	for i := range load.calls {
		due := start.Add(time.Duration(float64(i) / load.rate * float64(time.Second)))
		time.Sleep(time.Until(due))
		if ctx.Err() != nil || open.Load() >= mostOpen {
			all.add(nil, 1, fmt.Errorf("more than %d calls are open", mostOpen))
			continue
		}
		open.Add(1)
		running.Go(func() {
			defer open.Add(-1)
			if err := newCaller(channels, i, load).call(ctx); err != nil {
				all.add(nil, 1, err)
				return
			}
			all.add([]time.Duration{time.Since(due)}, 0, nil)
		})
	}
	running.Wait()
	return all
}
