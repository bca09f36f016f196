package main

import (
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/admin"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/xds"
)

// patience is how long calls in flight may take to end once the process was told to end.
const patience = 3 * time.Second

// grpcServer is what a plain and a meshed server have in common.
type grpcServer interface {
	grpc.ServiceRegistrar
	Serve(net.Listener) error
	GracefulStop()
	Stop()
}

// server answers the public interop service, plain or meshed.
func server(args []string) error {
	set := flagSet("server")
	listen := set.String("listen", "127.0.0.1:0", "address")
	id := set.String("id", "server", "server id in answers")
	mode := set.String("mode", "plain", "plain or xds")
	secure := set.Bool("xds-creds", false, "security from xDS")
	adminAddress := set.String("admin", "", "address of CSDS")
	notServing := set.Bool("not-serving", false, "the health service answers NOT_SERVING")
	behaviour := behaviourFlags(set)
	load := orcaFlags(set)
	if err := parse(set, args); err != nil {
		return err
	}
	behaviour.id = *id
	if err := behaviour.check(); err != nil {
		return err
	}
	if err := load.check(); err != nil {
		return err
	}
	socket, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	options := append(load.options(), behaviour.options()...)
	s, err := newServer(*mode, *secure, options)
	if err != nil {
		return err
	}
	testpb.RegisterTestServiceServer(s, newTestServer(*id))
	healthpb.RegisterHealthServer(s, healthService(*notServing))
	load.register(s)
	ready := fields{"addr": socket.Addr().String(), "id": *id, "mode": *mode}
	if err := openAdmin(*adminAddress, ready); err != nil {
		return err
	}
	say("ready", ready)
	return serve(s, socket)
}

func newServer(mode string, secure bool, options []grpc.ServerOption) (grpcServer, error) {
	options = append(options, grpc.MaxRecvMsgSize(1<<30))
	switch mode {
	case "plain":
		return grpc.NewServer(options...), nil
	case "xds":
	default:
		return nil, fmt.Errorf("--mode: %q is neither plain nor xds", mode)
	}
	if secure {
		security, err := xdscreds.NewServerCredentials(
			xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.Creds(security))
	}
	return xds.NewGRPCServer(append(options, xds.ServingModeCallback(sayMode))...)
}

func sayMode(address net.Addr, change xds.ServingModeChangeArgs) {
	event := fields{"addr": address.String(), "mode": "NOT_SERVING"}
	if change.Mode == connectivity.ServingModeServing {
		event["mode"] = "SERVING"
	}
	if change.Err != nil {
		event["error"] = change.Err.Error()
	}
	say("serving_mode", event)
}

// serve runs a server until SIGTERM; calls in flight then have a while to end.
func serve(s grpcServer, socket net.Listener) error {
	told := terminated()
	stopped := make(chan struct{})
	go func() {
		<-told
		time.AfterFunc(patience, s.Stop)
		s.GracefulStop()
		close(stopped)
	}()
	err := s.Serve(socket)
	select {
	case <-told:
		// Serve comes back at once; what is in flight does not.
		<-stopped
		return nil
	default:
		return err
	}
}

func healthService(notServing bool) *health.Server {
	service := health.NewServer()
	state := healthpb.HealthCheckResponse_SERVING
	if notServing {
		state = healthpb.HealthCheckResponse_NOT_SERVING
	}
	service.SetServingStatus("", state)
	service.SetServingStatus("grpc.testing.TestService", state)
	return service
}

// openAdmin serves CSDS and channelz at an address, if there is one, and adds it to the ready event.
func openAdmin(address string, ready fields) error {
	if address == "" {
		return nil
	}
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	if _, err := admin.Register(s); err != nil {
		return err
	}
	ready["admin"] = socket.Addr().String()
	go func() { _ = s.Serve(socket) }()
	return nil
}
