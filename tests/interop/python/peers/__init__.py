"""What the peers on gRPC C-core consist of."""
