package main

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// calls is what is the same for every call of a run.
type calls struct {
	method         string
	streamMessages int
	payloadSize    int
	timeoutMs      int
	metadata       *[][2]string
	printMetadata  bool
	cookieJar      bool

	mu      sync.Mutex
	cookies map[string]string
}

func callFlags(set *flag.FlagSet) *calls {
	c := &calls{cookies: map[string]string{}}
	set.StringVar(&c.method, "method", "UnaryCall", "UnaryCall, EmptyCall or StreamingOutputCall")
	set.IntVar(&c.streamMessages, "stream-messages", 3, "answers asked of StreamingOutputCall")
	set.IntVar(&c.payloadSize, "payload-size", 0, "bytes")
	set.IntVar(&c.timeoutMs, "timeout-ms", 10000, "deadline per call; 0: none")
	c.metadata = pairs(set, "metadata", ":", "key:value, repeatable")
	set.BoolVar(&c.printMetadata, "print-metadata", false, "add headers and trailers to events")
	set.BoolVar(&c.cookieJar, "cookie-jar", false, "keep cookies")
	return c
}

func (c *calls) check() error {
	if !slices.Contains([]string{"UnaryCall", "EmptyCall", "StreamingOutputCall"}, c.method) {
		return fmt.Errorf("--method: no method %q", c.method)
	}
	return nil
}

// outcome is what became of one call.
type outcome struct {
	code, message, server string
	messages              int
	headers, trailers     metadata.MD
}

// call makes call i.
func (c *calls) call(ctx context.Context, channel *grpc.ClientConn, i uint64) *outcome {
	ctx = metadata.NewOutgoingContext(ctx, c.request(i))
	if c.timeoutMs > 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(c.timeoutMs)*time.Millisecond)
		defer cancel()
		ctx = limited
	}
	o := &outcome{}
	err := c.exchange(ctx, testpb.NewTestServiceClient(channel), o)
	o.code, o.message = codeName(status.Code(err)), status.Convert(err).Message()
	for _, source := range []metadata.MD{o.headers, o.trailers} {
		if names := source.Get("hostname"); o.server == "" && len(names) > 0 {
			o.server = names[0]
		}
	}
	c.keepCookies(o.headers)
	return o
}

func (c *calls) exchange(ctx context.Context, stub testpb.TestServiceClient, o *outcome) error {
	meta := []grpc.CallOption{grpc.Header(&o.headers), grpc.Trailer(&o.trailers)}
	var payload *testpb.Payload
	if c.payloadSize > 0 {
		payload = &testpb.Payload{Body: make([]byte, c.payloadSize)}
	}
	size := int32(c.payloadSize)
	switch c.method {
	case "EmptyCall":
		_, err := stub.EmptyCall(ctx, &testpb.Empty{}, meta...)
		if err == nil {
			o.messages = 1
		}
		return err
	case "UnaryCall":
		answer, err := stub.UnaryCall(ctx, &testpb.SimpleRequest{
			FillServerId: true, ResponseSize: size, Payload: payload}, meta...)
		if err == nil {
			o.messages, o.server = 1, answer.GetServerId()
		}
		return err
	}
	request := &testpb.StreamingOutputCallRequest{Payload: payload}
	for range c.streamMessages {
		request.ResponseParameters = append(request.ResponseParameters, &testpb.ResponseParameters{Size: size})
	}
	stream, err := stub.StreamingOutputCall(ctx, request, meta...)
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			o.messages++
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// request is the metadata of call i.
func (c *calls) request(i uint64) metadata.MD {
	md := metadata.MD{}
	for _, entry := range *c.metadata {
		md.Append(entry[0], filled(entry[1], i))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cookies) > 0 {
		var all []string
		for name, value := range c.cookies {
			all = append(all, name+"="+value)
		}
		slices.Sort(all)
		md.Append("cookie", strings.Join(all, "; "))
	}
	return md
}

// keepCookies remembers name and value; how long and for which path does not matter to one service.
func (c *calls) keepCookies(headers metadata.MD) {
	if !c.cookieJar {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cookie := range headers.Get("set-cookie") {
		pair, _, _ := strings.Cut(cookie, ";")
		if name, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok {
			c.cookies[name] = value
		}
	}
}

var index = regexp.MustCompile(`\{i(%[0-9]+)?\}`)

// filled puts the call's index, {i}, or its remainder, {i%N}, into a value.
func filled(template string, i uint64) string {
	return index.ReplaceAllStringFunc(template, func(found string) string {
		if found == "{i}" {
			return strconv.FormatUint(i, 10)
		}
		n, err := strconv.ParseUint(found[3:len(found)-1], 10, 64)
		if err != nil || n == 0 {
			return found
		}
		return strconv.FormatUint(i%n, 10)
	})
}

func (o *outcome) fields(withMetadata bool) fields {
	f := fields{"code": o.code, "server": o.server}
	if o.code == "OK" {
		f["messages"] = o.messages
	} else {
		f["message"] = o.message
	}
	if withMetadata {
		f["headers"], f["trailers"] = readable(o.headers), readable(o.trailers)
	}
	return f
}

// readable is metadata as text; binary values in the base64 in which they travel.
func readable(md metadata.MD) map[string]string {
	text := map[string]string{}
	for key, values := range md {
		if strings.HasSuffix(key, "-bin") {
			values = slices.Clone(values)
			for at, value := range values {
				values[at] = base64.RawStdEncoding.EncodeToString([]byte(value))
			}
		}
		text[key] = strings.Join(values, ",")
	}
	return text
}

var codeNames = []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
	"NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
	"ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func codeName(code codes.Code) string {
	if int(code) < len(codeNames) {
		return codeNames[code]
	}
	return "UNKNOWN"
}

func codeNamed(name string) (codes.Code, error) {
	at := slices.Index(codeNames, name)
	if at < 0 {
		return 0, fmt.Errorf("--fail-code: no status %q", name)
	}
	return codes.Code(at), nil
}
