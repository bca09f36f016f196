// Peers written in Go for the interop suite: a go-control-plane management server, a grpc-go
// server, with and without xDS, and a grpc-go xDS client. Each prints one JSON object per line; a
// server's first one says that it is ready.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

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
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: peers control-plane|server|xds-server|client [flags]")
	}
	verbs := map[string]func([]string){"control-plane": controlPlane, "server": server, "xds-server": xdsServer, "client": client}
	verb, ok := verbs[os.Args[1]]
	if !ok {
		fail("no such verb: " + os.Args[1])
	}
	verb(os.Args[2:])
}

func say(event map[string]any) {
	line, err := json.Marshal(event)
	check(err)
	fmt.Println(string(line))
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(2)
}

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

// untilTold runs a server until SIGTERM.
func untilTold(listen string, register func(*grpc.Server)) {
	socket, err := net.Listen("tcp", listen)
	check(err)
	s := grpc.NewServer()
	register(s)
	serveUntilTold(socket, s.Stop, func() error { return s.Serve(socket) })
}

func serveUntilTold(socket net.Listener, stop func(), serve func() error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		stop()
	}()
	say(map[string]any{"event": "ready", "addr": socket.Addr().String()})
	check(serve())
}

// controlPlane serves one listener, route, cluster and endpoint set to everybody.
func controlPlane(args []string) {
	flags := flag.NewFlagSet("control-plane", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address of the ADS port")
	name := flags.String("name", "greeter", "listener name")
	node := flags.String("node", "interop", "node id that the snapshot is for")
	backend := flags.String("backend", "", "host:port of the backend")
	check(flags.Parse(args))
	snapshots := cache.NewSnapshotCache(true, cache.IDHash{}, nil)
	snapshot, err := cache.NewSnapshot("1", resources(*name, *backend))
	check(err)
	check(snapshots.SetSnapshot(context.Background(), *node, snapshot))
	untilTold(*listen, func(s *grpc.Server) {
		ads := management.NewServer(context.Background(), snapshots, nil)
		discovery.RegisterAggregatedDiscoveryServiceServer(s, ads)
	})
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
				LoadBalancingWeight: wrapped(1),
				LbEndpoints: []*endpoint.LbEndpoint{{
					HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
						Address: &core.Address{Address: &core.Address_SocketAddress{
							SocketAddress: &core.SocketAddress{
								Address:       host,
								PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)}}}}}}}}}}}},
	}
}

// testServer answers the public interop service.
type testServer struct {
	testpb.UnimplementedTestServiceServer
	id string
}

func (s testServer) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

func (s testServer) UnaryCall(_ context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	body := make([]byte, r.GetResponseSize())
	return &testpb.SimpleResponse{ServerId: s.id, Payload: &testpb.Payload{Body: body}}, nil
}

func (s testServer) StreamingOutputCall(r *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	for _, parameters := range r.GetResponseParameters() {
		answer := &testpb.StreamingOutputCallResponse{
			Payload: &testpb.Payload{Body: make([]byte, parameters.GetSize())}}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
	return nil
}

func server(args []string) {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address")
	id := flags.String("id", "grpc-go", "server id in answers")
	check(flags.Parse(args))
	untilTold(*listen, func(s *grpc.Server) {
		testpb.RegisterTestServiceServer(s, testServer{id: *id})
	})
}

// xdsServer is grpc-go's own meshed server: its Listener and its security come by xDS.
func xdsServer(args []string) {
	flags := flag.NewFlagSet("xds-server", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address")
	id := flags.String("id", "grpc-go", "server id in answers")
	check(flags.Parse(args))
	socket, err := net.Listen("tcp", *listen)
	check(err)
	security, err := xdscreds.NewServerCredentials(
		xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	check(err)
	s, err := xds.NewGRPCServer(grpc.Creds(security), xds.ServingModeCallback(
		func(address net.Addr, change xds.ServingModeChangeArgs) {
			event := map[string]any{"event": "serving_mode", "addr": address.String(), "mode": "NOT_SERVING"}
			if change.Mode == connectivity.ServingModeServing {
				event["mode"] = "SERVING"
			}
			if change.Err != nil {
				event["error"] = change.Err.Error()
			}
			say(event)
		}))
	check(err)
	testpb.RegisterTestServiceServer(s, testServer{id: *id})
	serveUntilTold(socket, s.Stop, func() error { return s.Serve(socket) })
}

// client calls a target through grpc-go's own xDS client.
func client(args []string) {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	target := flags.String("target", "", "xds:///name")
	n := flags.Int("n", 10, "calls")
	creds := flags.String("creds", "insecure", "insecure or xds")
	check(flags.Parse(args))
	security := insecure.NewCredentials()
	if *creds == "xds" {
		var err error
		security, err = xdscreds.NewClientCredentials(
			xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
		check(err)
	}
	channel, err := grpc.NewClient(*target, grpc.WithTransportCredentials(security))
	check(err)
	defer channel.Close()
	stub := testpb.NewTestServiceClient(channel)
	ok := 0
	for i := 0; i < *n; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		from := peer.Peer{}
		answer, err := stub.UnaryCall(ctx, &testpb.SimpleRequest{FillServerId: true}, grpc.Peer(&from))
		cancel()
		if err != nil {
			say(map[string]any{"event": "rpc", "i": i, "error": err.Error()})
			continue
		}
		ok++
		say(map[string]any{"event": "rpc", "i": i, "code": "OK", "server": answer.GetServerId()})
	}
	say(map[string]any{"event": "summary", "total": *n, "ok": ok})
}
