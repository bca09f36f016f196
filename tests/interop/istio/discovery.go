package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"

	"google.golang.org/grpc"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
)

// discoveryServer serves ADS on a TCP port and on the sockets of agents, until SIGTERM.
func discoveryServer(args []string) {
	flags := flag.NewFlagSet("discovery", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address of the ADS port")
	config := flags.String("config", "", "a YAML file, or a folder of them")
	dump := flags.String("dump", "", "a folder: one file per response, as it goes out")
	var agents list
	flags.Var(&agents, "unix", "a socket as a pod's agent opens it (may be repeated)")
	check(flags.Parse(args))

	configs, err := readConfigs(*config)
	check(err)
	sockets := []socket{{observer: newObserver(*dump, false)}}
	sockets[0].listener, err = net.Listen("tcp", *listen)
	check(err)
	for _, path := range agents {
		// One that is left from before is nobody's.
		_ = os.Remove(path)
		listener, err := net.Listen("unix", path)
		check(err)
		sockets = append(sockets, socket{listener, newObserver(*dump, true)})
	}

	server := start(configs)
	for _, s := range sockets {
		rpcs := grpc.NewServer(grpc.StreamInterceptor(s.observer.intercept))
		server.Discovery.Register(rpcs)
		go func() { check(rpcs.Serve(s.listener)) }()
	}
	say("ready", map[string]any{"addr": sockets[0].listener.Addr().String(), "configs": len(configs)})
	untilTold(func() {
		count, err := reload(server.Store(), *config)
		fields := map[string]any{"ok": err == nil, "changed": count}
		if err != nil {
			fields["error"] = err.Error()
		}
		say("reload", fields)
	})
	summary()
	os.Exit(0)
}

type socket struct {
	listener net.Listener
	observer *observer
}

// start is Istio's discovery server over an in-memory store.
func start(configs configs) *xds.FakeDiscoveryServer {
	options := xds.FakeOptions{MeshConfig: mesh.DefaultMeshConfig()}
	for _, one := range configs {
		options.Configs = append(options.Configs, one)
	}
	return xds.NewFakeDiscoveryServer(&process{}, options)
}

// version prints the version of Istio that this program was built with.
func version([]string) {
	info, _ := debug.ReadBuildInfo()
	for _, dependency := range info.Deps {
		if dependency.Path == "istio.io/istio" {
			say("version", map[string]any{"istio": dependency.Version, "go": runtime.Version()})
			return
		}
	}
	fail("built without istio.io/istio")
}

// process stands where Istio's tests have their testing.T: a failure ends the program.
type process struct{}

func (*process) Fail()                             { fail("failed") }
func (*process) FailNow()                          { fail("failed") }
func (*process) Fatal(args ...any)                 { fail(fmt.Sprint(args...)) }
func (*process) Fatalf(format string, args ...any) { fail(fmt.Sprintf(format, args...)) }
func (*process) Log(args ...any)                   { fmt.Fprintln(os.Stderr, args...) }
func (*process) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (*process) Helper()                           {}

// Cleanup is the end of the process.
func (*process) Cleanup(func())   {}
func (*process) Skip(args ...any) { fail(fmt.Sprint(args...)) }
func (*process) TempDir() string {
	folder, err := os.MkdirTemp("", "istio-peer")
	check(err)
	return folder
}
