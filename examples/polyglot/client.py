"""A caller in Python."""

import grpc
from grpc.experimental import insecure_channel_credentials

hello, services = grpc.protos_and_services("hello.proto")
credentials = grpc.xds_channel_credentials(insecure_channel_credentials())
greeter = services.GreeterStub(grpc.secure_channel("xds:///greeter", credentials))
for _ in range(4):
    reply = greeter.SayHello(hello.HelloRequest(name="Python"))
    print(f"{reply.message} (from {reply.server})")
