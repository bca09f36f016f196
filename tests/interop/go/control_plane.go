package main

import (
	"context"
	"net"
	"strconv"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	management "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// controlPlane serves one listener, route, cluster and endpoint set to everybody.
func controlPlane(args []string) error {
	flags := flagSet("control-plane")
	listen := flags.String("listen", "127.0.0.1:0", "address of the ADS port")
	name := flags.String("name", "greeter", "listener name")
	node := flags.String("node", "interop", "node id that the snapshot is for")
	backend := flags.String("backend", "", "host:port of the backend")
	check(flags.Parse(args))
	snapshots := cache.NewSnapshotCache(true, cache.IDHash{}, nil)
	snapshot, err := cache.NewSnapshot("1", resources(*name, *backend))
	check(err)
	check(snapshots.SetSnapshot(context.Background(), *node, snapshot))
	socket, err := net.Listen("tcp", *listen)
	check(err)
	s := grpc.NewServer()
	ads := management.NewServer(context.Background(), snapshots, nil)
	discovery.RegisterAggregatedDiscoveryServiceServer(s, ads)
	say("ready", fields{"addr": socket.Addr().String()})
	return serve(s, socket)
}

func pack(message proto.Message) *anypb.Any {
	packed, err := anypb.New(message)
	check(err)
	return packed
}

func resources(name, backend string) map[resource.Type][]types.Resource {
	ads := &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
	host, portText, err := net.SplitHostPort(backend)
	check(err)
	port, err := strconv.ParseUint(portText, 10, 16)
	check(err)
	manager := &hcm.HttpConnectionManager{
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{
			Rds: &hcm.Rds{ConfigSource: ads, RouteConfigName: name + "-routes"}},
		HttpFilters: []*hcm.HttpFilter{{
			Name:       "router",
			ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(&router.Router{})}}},
	}
	return map[resource.Type][]types.Resource{
		resource.ListenerType: {&listener.Listener{
			Name: name, ApiListener: &listener.ApiListener{ApiListener: pack(manager)}}},
		resource.RouteType: {&route.RouteConfiguration{
			Name: name + "-routes",
			VirtualHosts: []*route.VirtualHost{{
				Name: name, Domains: []string{name},
				Routes: []*route.Route{{
					Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{}},
					Action: &route.Route_Route{Route: &route.RouteAction{
						ClusterSpecifier: &route.RouteAction_Cluster{Cluster: name + "-cluster"}}}}}}}}},
		resource.ClusterType: {&cluster.Cluster{
			Name:                 name + "-cluster",
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads}}},
		resource.EndpointType: {&endpoint.ClusterLoadAssignment{
			ClusterName: name + "-cluster",
			Endpoints: []*endpoint.LocalityLbEndpoints{{
				Locality:            &core.Locality{Zone: "a"},
				LoadBalancingWeight: wrapperspb.UInt32(1),
				LbEndpoints: []*endpoint.LbEndpoint{{
					HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
						Address: &core.Address{Address: &core.Address_SocketAddress{
							SocketAddress: &core.SocketAddress{
								Address:       host,
								PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)}}}}}}}}}}}},
	}
}

func check(err error) {
	if err != nil {
		refuse(err.Error())
	}
}
