package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// behaviour is how a server treats calls of the test service before it answers them.
type behaviour struct {
	id                string
	failFirst         uint64
	failAttemptsBelow uint64
	failPercent       float64
	failCode          string
	delayMs           int
	logRPCs           bool

	code  codes.Code
	count atomic.Uint64
}

func behaviourFlags(set *flag.FlagSet) *behaviour {
	b := &behaviour{}
	set.Uint64Var(&b.failFirst, "fail-first", 0, "fail the first so many calls")
	set.Uint64Var(&b.failAttemptsBelow, "fail-attempts-below", 0, "fail calls with fewer previous attempts")
	set.Float64Var(&b.failPercent, "fail-percent", 0, "share of calls to fail")
	set.StringVar(&b.failCode, "fail-code", "UNAVAILABLE", "status of those failures")
	set.IntVar(&b.delayMs, "delay-ms", 0, "wait before each answer")
	set.BoolVar(&b.logRPCs, "log-rpcs", false, "an event at the start of each call")
	return b
}

func (b *behaviour) check() (err error) {
	b.code, err = codeNamed(b.failCode)
	return err
}

// options apply the behaviour to every call of the test service, and to no other.
func (b *behaviour) options() []grpc.ServerOption {
	unary := func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		header := func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }
		trailer := func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }
		if err := b.begin(ctx, info.FullMethod, header, trailer); err != nil {
			return nil, err
		}
		return next(ctx, request)
	}
	stream := func(service any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := b.begin(s.Context(), info.FullMethod, s.SetHeader, s.SetTrailer); err != nil {
			return err
		}
		return next(service, s)
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}

func (b *behaviour) begin(ctx context.Context, path string, header func(metadata.MD) error, trailer func(metadata.MD)) error {
	service, method, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if service != "grpc.testing.TestService" {
		return nil
	}
	call := newCall(ctx)
	n := b.count.Add(1)
	if b.logRPCs {
		say("rpc", call.event(n, method))
	}
	if err := b.misbehave(ctx, call, n); err != nil {
		// Set as a trailer, it leaves the answer one of trailers only.
		trailer(metadata.Pairs("hostname", b.id))
		return err
	}
	return header(metadata.Join(metadata.Pairs("hostname", b.id), call.echoes()))
}

// misbehave delays or fails a call as flags and request metadata ask.
func (b *behaviour) misbehave(ctx context.Context, call call, n uint64) error {
	if err := wait(ctx, time.Duration(b.delayMs)*time.Millisecond); err != nil {
		return err
	}
	if n <= b.failFirst || call.attempts < b.failAttemptsBelow || rand.Float64()*100 < b.failPercent {
		return status.Errorf(b.code, "%s fails on purpose", b.id)
	}
	for _, value := range call.metadata.Get("rpc-behavior") {
		for _, step := range strings.Split(value, ",") {
			done, err := b.step(ctx, call, strings.TrimSpace(step))
			if err != nil || done {
				return err
			}
		}
	}
	return nil
}

// step does one of rpc-behavior; done: what follows is left out.
func (b *behaviour) step(ctx context.Context, call call, step string) (done bool, err error) {
	if rest, ok := strings.CutPrefix(step, "hostname="); ok {
		host, what, _ := strings.Cut(rest, " ")
		if host != b.id {
			return false, nil
		}
		step = strings.TrimSpace(what)
	}
	if step == "keep-open" {
		<-ctx.Done()
		return false, status.FromContextError(ctx.Err()).Err()
	}
	at := strings.LastIndex(step, "-")
	number, err := strconv.ParseUint(step[at+1:], 10, 32)
	if at < 0 || err != nil {
		return false, status.Errorf(codes.InvalidArgument, "rpc-behavior: %q is unknown", step)
	}
	switch step[:at] {
	case "sleep":
		return false, wait(ctx, time.Duration(number)*time.Second)
	case "error-code":
		return false, status.Errorf(codes.Code(number), "%s fails as rpc-behavior asks", b.id)
	case "succeed-on-retry-attempt":
		return call.attempts == number, nil
	}
	return false, status.Errorf(codes.InvalidArgument, "rpc-behavior: %q is unknown", step)
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// call is what a request says about itself.
type call struct {
	metadata metadata.MD
	attempts uint64
	deadline string
	peerSAN  string
}

func newCall(ctx context.Context) call {
	md, _ := metadata.FromIncomingContext(ctx)
	c := call{metadata: md}
	if attempts := md.Get("grpc-previous-rpc-attempts"); len(attempts) > 0 {
		c.attempts, _ = strconv.ParseUint(attempts[0], 10, 32)
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.deadline = strconv.FormatInt(time.Until(deadline).Milliseconds(), 10)
	}
	if p, ok := peer.FromContext(ctx); ok {
		if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			c.peerSAN = san(tls)
		}
	}
	return c
}

func san(tls credentials.TLSInfo) string {
	if certificates := tls.State.PeerCertificates; len(certificates) > 0 {
		for _, uri := range certificates[0].URIs {
			return uri.String()
		}
	}
	return ""
}

func (c call) authority() string { return strings.Join(c.metadata.Get(":authority"), ",") }

func (c call) event(n uint64, method string) fields {
	event := fields{"n": n, "method": method, "attempts": c.attempts, "authority": c.authority()}
	if c.deadline != "" {
		event["deadline_ms"] = c.deadline
	}
	if c.peerSAN != "" {
		event["peer_san"] = c.peerSAN
	}
	return event
}

// echoes are the response headers that x-echo asks for; what did not come is not echoed.
func (c call) echoes() metadata.MD {
	special := map[string]string{
		":authority": c.authority(), ":deadline-ms": c.deadline,
		":attempts": fmt.Sprint(c.attempts), ":peer-san": c.peerSAN,
	}
	echoes := metadata.MD{}
	for _, list := range c.metadata.Get("x-echo") {
		for _, key := range strings.Split(list, ",") {
			key = strings.ToLower(strings.TrimSpace(key))
			values := c.metadata.Get(key)
			if value, ok := special[key]; ok {
				values = nil
				if value != "" {
					values = []string{value}
				}
			}
			echoes.Append("echo-"+strings.TrimPrefix(key, ":"), values...)
		}
	}
	return echoes
}
