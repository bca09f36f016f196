package main

import "google.golang.org/protobuf/types/known/wrapperspb"

func wrapped(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }
