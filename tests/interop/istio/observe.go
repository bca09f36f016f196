package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// What went over all streams.
var streams, responses, acks, nacks, replaced atomic.Int64

// observer says what goes over the streams of one socket.
type observer struct {
	dump string
	// Whether this is a pod's agent. An agent of Istio forwards one stream: the next one that its pod
	// opens ends the one before (istio/istio#53532).
	agent bool

	mutex sync.Mutex
	end   context.CancelFunc
}

func newObserver(dump string, agent bool) *observer {
	return &observer{dump: dump, agent: agent}
}

func (o *observer) intercept(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	kind := "sotw"
	if strings.HasSuffix(info.FullMethod, "/DeltaAggregatedResources") {
		kind = "delta"
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	if o.agent {
		o.take(cancel)
	}
	observed := &observedStream{ServerStream: stream, observer: o, ctx: ctx, id: streams.Add(1), kind: kind}
	say("stream_open", map[string]any{"stream": observed.id, "kind": kind})
	err := handler(server, observed)
	fields := map[string]any{"stream": observed.id, "kind": kind}
	if ctx.Err() != nil && stream.Context().Err() == nil {
		replaced.Add(1)
		fields["replaced"] = true
		err = status.Error(codes.Unavailable, "the pod opened another stream")
	}
	say("stream_close", fields)
	return err
}

// take ends the stream that was there before.
func (o *observer) take(end context.CancelFunc) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if o.end != nil {
		o.end()
	}
	o.end = end
}

type observedStream struct {
	grpc.ServerStream
	observer *observer
	ctx      context.Context
	id       int64
	kind     string
	node     string
}

func (s *observedStream) Context() context.Context { return s.ctx }

func (s *observedStream) RecvMsg(message any) error {
	if err := s.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	switch request := message.(type) {
	case *discovery.DiscoveryRequest:
		s.note(request.GetNode().GetId())
		s.request(request.TypeUrl, request.ResponseNonce, request.ErrorDetail.GetMessage(),
			map[string]any{"version": request.VersionInfo, "names": request.ResourceNames})
	case *discovery.DeltaDiscoveryRequest:
		s.note(request.GetNode().GetId())
		s.request(request.TypeUrl, request.ResponseNonce, request.ErrorDetail.GetMessage(),
			map[string]any{"names": request.ResourceNamesSubscribe})
	}
	return nil
}

// note keeps the node: it comes with the first request alone.
func (s *observedStream) note(node string) {
	if node != "" {
		s.node = node
	}
}

func (s *observedStream) request(url, nonce, fault string, fields map[string]any) {
	event := "request"
	switch {
	case fault != "":
		nacks.Add(1)
		event = "nack"
		fields["error"] = fault
	case nonce != "":
		acks.Add(1)
		event = "ack"
	}
	fields["stream"], fields["kind"], fields["node"] = s.id, s.kind, s.node
	fields["type"], fields["nonce"] = lastPart(url), nonce
	say(event, fields)
}

func (s *observedStream) SendMsg(message any) error {
	fields := map[string]any{"stream": s.id, "kind": s.kind, "node": s.node}
	var url string
	switch response := message.(type) {
	case *discovery.DiscoveryResponse:
		url = response.TypeUrl
		fields["version"], fields["nonce"] = response.VersionInfo, response.Nonce
		fields["count"] = len(response.Resources)
	case *discovery.DeltaDiscoveryResponse:
		url = response.TypeUrl
		fields["nonce"], fields["count"] = response.Nonce, len(response.Resources)
		fields["removed"] = response.RemovedResources
	}
	fields["type"] = lastPart(url)
	number := responses.Add(1)
	if s.observer.dump != "" {
		name := fmt.Sprintf("%04d-%s-%s.bin", number, s.kind, lastPart(url))
		bytes, err := proto.Marshal(message.(proto.Message))
		if err == nil {
			err = os.WriteFile(filepath.Join(s.observer.dump, name), bytes, 0o600)
		}
		if err != nil {
			return status.Errorf(codes.Internal, "dump: %v", err)
		}
	}
	// Said before it goes out: the answer to it must not be read first.
	say("response", fields)
	return s.ServerStream.SendMsg(message)
}

// summary says what went over all streams.
func summary() {
	say("summary", map[string]any{
		"streams": streams.Load(), "replaced": replaced.Load(),
		"responses": responses.Load(), "acks": acks.Load(), "nacks": nacks.Load(),
	})
}

func lastPart(url string) string {
	return url[strings.LastIndex(url, ".")+1:]
}
