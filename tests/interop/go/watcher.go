package main

import (
	"context"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	management "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
)

// watcher makes events of what go-control-plane sees.
type watcher struct {
	// The node of each stream: clients name themselves in their first request only.
	nodes sync.Map
}

const (
	sotw  = "sotw"
	delta = "delta"
)

func (w *watcher) callbacks() management.CallbackFuncs {
	opened := func(kind string) func(context.Context, int64, string) error {
		return func(_ context.Context, stream int64, _ string) error {
			say("stream_open", fields{"stream": stream, "kind": kind})
			return nil
		}
	}
	closed := func(kind string) func(int64, *core.Node) {
		return func(stream int64, _ *core.Node) {
			w.nodes.Delete(key{kind, stream})
			say("stream_close", fields{"stream": stream, "kind": kind})
		}
	}
	return management.CallbackFuncs{
		StreamOpenFunc:        opened(sotw),
		StreamClosedFunc:      closed(sotw),
		DeltaStreamOpenFunc:   opened(delta),
		DeltaStreamClosedFunc: closed(delta),
		StreamRequestFunc: func(stream int64, r *discovery.DiscoveryRequest) error {
			w.request(key{sotw, stream}, r.GetNode(), r.GetErrorDetail(), r.GetResponseNonce(), fields{
				"type": last(r.GetTypeUrl()), "version": r.GetVersionInfo(), "names": listed(r.GetResourceNames())})
			return nil
		},
		StreamDeltaRequestFunc: func(stream int64, r *discovery.DeltaDiscoveryRequest) error {
			w.request(key{delta, stream}, r.GetNode(), r.GetErrorDetail(), r.GetResponseNonce(), fields{
				"type": last(r.GetTypeUrl()), "version": "", "names": listed(r.GetResourceNamesSubscribe())})
			return nil
		},
		StreamResponseFunc: func(_ context.Context, stream int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
			say("response", fields{"stream": stream, "kind": sotw, "type": last(r.GetTypeUrl()),
				"version": r.GetVersionInfo(), "nonce": r.GetNonce(), "count": len(r.GetResources())})
		},
		StreamDeltaResponseFunc: func(stream int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
			say("response", fields{"stream": stream, "kind": delta, "type": last(r.GetTypeUrl()),
				"version": r.GetSystemVersionInfo(), "nonce": r.GetNonce(), "count": len(r.GetResources())})
		},
	}
}

type key struct {
	kind   string
	stream int64
}

func (w *watcher) request(k key, node *core.Node, failure *status.Status, nonce string, event fields) {
	if node.GetId() != "" {
		w.nodes.Store(k, node.GetId())
	}
	id, _ := w.nodes.Load(k)
	event["stream"], event["kind"], event["node"], event["nonce"] = k.stream, k.kind, id, nonce
	switch {
	case failure != nil:
		event["error"] = failure.GetMessage()
		say("nack", event)
	case nonce != "":
		say("ack", event)
	default:
		say("request", event)
	}
}

// last is the last part of a type URL.
func last(typeURL string) string { return typeURL[strings.LastIndexAny(typeURL, "./")+1:] }

// listed is never null.
func listed(names []string) []string { return append([]string{}, names...) }
