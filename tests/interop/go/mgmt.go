package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	lrs "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	management "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// mgmt is go-control-plane, which serves what is in a file or folder to every node.
func mgmt(args []string) error {
	set := flagSet("mgmt")
	listen := set.String("listen", "127.0.0.1:0", "address of ADS and LRS")
	path := set.String("resources", "", "file or folder of resources")
	if err := parse(set, args); err != nil {
		return err
	}
	if *path == "" {
		return fmt.Errorf("--resources is missing")
	}
	all, err := readResources(*path)
	if err != nil {
		return err
	}
	// The prefix tells this process's versions from those of one before it on the same port.
	caches := &caches{prefix: fmt.Sprintf("%x-", time.Now().UnixMicro()), byType: map[string]*cache.LinearCache{}}
	caches.replace(all)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		for range hangup {
			if all, err := readResources(*path); err != nil {
				say("reload", fields{"ok": false, "error": err.Error()})
			} else {
				caches.replace(all)
				say("reload", fields{"ok": true})
			}
		}
	}()
	socket, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(s,
		management.NewServer(context.Background(), caches, (&watcher{}).callbacks()))
	lrs.RegisterLoadReportingServiceServer(s, loadReports{})
	say("ready", fields{"addr": socket.Addr().String()})
	told := terminated()
	go func() {
		<-told
		// Streams of clients do not end by themselves.
		s.Stop()
	}()
	return s.Serve(socket)
}

// order is that in which types are replaced: make before break, callees first.
var order = []string{resource.SecretType, resource.ClusterType, resource.EndpointType,
	resource.ListenerType, resource.RouteType}

// caches is one linear cache for each type, known or not: that serves every node alike, and what is
// not referenced too.
type caches struct {
	prefix string
	mu     sync.Mutex
	byType map[string]*cache.LinearCache
}

func (c *caches) of(typeURL string) *cache.LinearCache {
	c.mu.Lock()
	defer c.mu.Unlock()
	linear, ok := c.byType[typeURL]
	if !ok {
		linear = cache.NewLinearCache(typeURL, cache.WithVersionPrefix(c.prefix))
		c.byType[typeURL] = linear
	}
	return linear
}

// replace puts a new set in force; what has not changed is not sent again.
func (c *caches) replace(all map[string]map[string]types.Resource) {
	types := append([]string{}, order...)
	c.mu.Lock()
	for typeURL := range c.byType {
		types = append(types, typeURL)
	}
	c.mu.Unlock()
	for typeURL := range all {
		types = append(types, typeURL)
	}
	done := map[string]bool{}
	for _, typeURL := range types {
		if !done[typeURL] {
			done[typeURL] = true
			update(c.of(typeURL), all[typeURL])
		}
	}
}

func update(linear *cache.LinearCache, wanted map[string]types.Resource) {
	changed := map[string]types.Resource{}
	var gone []string
	there := linear.GetResources()
	for name, resource := range wanted {
		if old, ok := there[name]; !ok || !proto.Equal(old, resource) {
			changed[name] = resource
		}
	}
	for name := range there {
		if _, ok := wanted[name]; !ok {
			gone = append(gone, name)
		}
	}
	if len(changed) > 0 || len(gone) > 0 {
		if err := linear.UpdateResources(changed, gone); err != nil {
			say("error", fields{"message": err.Error()})
		}
	}
}

func (c *caches) CreateWatch(r *cache.Request, s cache.Subscription, to chan cache.Response) (func(), error) {
	return c.of(r.GetTypeUrl()).CreateWatch(r, s, to)
}

func (c *caches) CreateDeltaWatch(r *cache.DeltaRequest, s cache.Subscription, to chan cache.DeltaResponse) (func(), error) {
	return c.of(r.GetTypeUrl()).CreateDeltaWatch(r, s, to)
}

func (c *caches) Fetch(ctx context.Context, r *cache.Request) (cache.Response, error) {
	return c.of(r.GetTypeUrl()).Fetch(ctx, r)
}
