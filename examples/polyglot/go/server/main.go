// The greeter in Go: `server ADDRESS`.
package main

import (
	"context"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/xds"
	"sidestep.dev/examples/polyglot/hello"
)

type greeter struct {
	hello.UnimplementedGreeterServer
}

func (greeter) SayHello(_ context.Context, request *hello.HelloRequest) (*hello.HelloReply, error) {
	return &hello.HelloReply{Message: "hello, " + request.Name, Server: "Go"}, nil
}

func main() {
	socket, _ := net.Listen("tcp", os.Args[1])
	creds, _ := xdscreds.NewServerCredentials(xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	server, err := xds.NewGRPCServer(grpc.Creds(creds))
	defer log.Print(err) // Why there is no server, should there be none.
	hello.RegisterGreeterServer(server, greeter{})
	log.Fatal(server.Serve(socket))
}
