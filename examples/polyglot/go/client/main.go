// A caller in Go.
package main

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	_ "google.golang.org/grpc/xds"
	"sidestep.dev/examples/polyglot/hello"
)

func main() {
	creds, _ := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	channel, _ := grpc.NewClient("xds:///greeter", grpc.WithTransportCredentials(creds))
	for range 4 {
		reply, err := hello.NewGreeterClient(channel).SayHello(context.Background(), &hello.HelloRequest{Name: "Go"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s (from %s)\n", reply.Message, reply.Server)
	}
}
