package main

import (
	"context"

	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// testServer is grpc-go's own interop service with a name.
type testServer struct {
	testpb.TestServiceServer
	id string
}

func newTestServer(id string) testServer { return testServer{interop.NewTestServer(), id} }

func (s testServer) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	answer, err := s.TestServiceServer.UnaryCall(ctx, r)
	if err == nil {
		answer.ServerId, answer.Hostname = s.id, s.id
	}
	return answer, err
}
