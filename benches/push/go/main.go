// The control planes that ours is measured beside: go-control-plane with either of its caches.
//
// As the push bench has it: prints {"address": ..}, changes one endpoint for each line that it
// reads, and ends with its input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	management "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var (
	kind      = flag.String("cache", "linear", "linear or snapshot")
	clusters  = flag.Int("clusters", 100, "how many clusters")
	endpoints = flag.Int("endpoints", 10, "how many endpoints each has")
)

// streams is how many a connection may have open: as many as the bench wants.
const streams = 1024

func main() {
	log.SetFlags(0)
	flag.Parse()
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

// holder is a cache, and the way to change what is in it.
type holder interface {
	cache.Cache
	change(version int) error
}

func serve() error {
	held, err := newHolder()
	if err != nil {
		return err
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.MaxConcurrentStreams(streams))
	discovery.RegisterAggregatedDiscoveryServiceServer(s, management.NewServer(context.Background(), held, nil))
	ready, err := json.Marshal(map[string]string{"address": socket.Addr().String()})
	if err != nil {
		return err
	}
	fmt.Println(string(ready))
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for version := 1; lines.Scan(); version++ {
			if err := held.change(version); err != nil {
				log.Fatal(err)
			}
		}
		// Streams of clients do not end by themselves.
		s.Stop()
	}()
	return s.Serve(socket)
}

func newHolder() (holder, error) {
	switch *kind {
	case "linear":
		return newLinear(), nil
	case "snapshot":
		held := &snapshot{cache.NewSnapshotCache(true, everybody{}, nil)}
		return held, held.change(0)
	default:
		return nil, fmt.Errorf("--cache is linear or snapshot, not %q", *kind)
	}
}

// linear is one linear cache for each type.
type linear struct {
	*cache.MuxCache
	endpoints *cache.LinearCache
}

func newLinear() *linear {
	of := func(typeURL string, resources []types.Resource) *cache.LinearCache {
		named := map[string]types.Resource{}
		for _, resource := range resources {
			named[cache.GetResourceName(resource)] = resource
		}
		return cache.NewLinearCache(typeURL, cache.WithInitialResources(named))
	}
	all := of(resource.EndpointType, assignments(0))
	byType := map[string]cache.Cache{
		resource.ClusterType:  of(resource.ClusterType, allClusters()),
		resource.EndpointType: all,
	}
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        byType,
	}
	return &linear{mux, all}
}

func (l *linear) change(version int) error {
	return l.endpoints.UpdateResource(name(0), assignment(0, version))
}

// snapshot is one snapshot for all nodes.
type snapshot struct {
	cache.SnapshotCache
}

type everybody struct{}

func (everybody) ID(*core.Node) string { return "all" }

// change puts a new snapshot in force in which the clusters are what they were.
func (s *snapshot) change(version int) error {
	next, err := cache.NewSnapshot("0", map[resource.Type][]types.Resource{
		resource.ClusterType:  allClusters(),
		resource.EndpointType: assignments(version),
	})
	if err != nil {
		return err
	}
	next.Resources[types.Endpoint].Version = strconv.Itoa(version)
	return s.SetSnapshot(context.Background(), "all", next)
}

func name(number int) string { return fmt.Sprintf("cluster-%05d", number) }

func allClusters() []types.Resource {
	var all []types.Resource
	for number := range *clusters {
		all = append(all, &cluster.Cluster{
			Name:                 name(number),
			ConnectTimeout:       durationpb.New(5 * time.Second),
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{
				ServiceName: name(number),
				EdsConfig: &core.ConfigSource{
					ResourceApiVersion:    core.ApiVersion_V3,
					ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
				},
			},
		})
	}
	return all
}

// assignments are the endpoints of all clusters; only the first one's follow the version.
func assignments(version int) []types.Resource {
	all := []types.Resource{assignment(0, version)}
	for number := 1; number < *clusters; number++ {
		all = append(all, assignment(number, 0))
	}
	return all
}

// assignment is the endpoints of a cluster; each version gives the first one another address.
func assignment(number, version int) *endpoint.ClusterLoadAssignment {
	var all []*endpoint.LbEndpoint
	for at := range *endpoints {
		address := number**endpoints + at
		if at == 0 {
			address = 0x00F00000 + version
		}
		all = append(all, &endpoint.LbEndpoint{
			LoadBalancingWeight: wrapperspb.UInt32(1),
			HealthStatus:        core.HealthStatus_HEALTHY,
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
				Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
					Address:       fmt.Sprintf("10.%d.%d.%d", address>>16&255, address>>8&255, address&255),
					PortSpecifier: &core.SocketAddress_PortValue{PortValue: 443},
				}}},
			}},
		})
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: name(number),
		Endpoints: []*endpoint.LocalityLbEndpoints{{
			Locality:            &core.Locality{Zone: "a"},
			LoadBalancingWeight: wrapperspb.UInt32(1),
			LbEndpoints:         all,
		}},
	}
}
