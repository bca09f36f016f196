"""The server: answers the interop service, plain or meshed."""

import socket
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from .behaviour import CODES, NUMBERS, Behaviour, out_of_band
from .events import Flags, say, terminated
from .stubs import UNLIMITED, admin, messages, services

# How long calls in flight may take to end once the process was told to end, in seconds.
PATIENCE = 3
# Calls that wait hold a thread each.
THREADS = 256


def flags(arguments):
    parser = Flags()
    parser.value("listen", "127.0.0.1:0")
    parser.value("id", "server")
    parser.choice("mode", "plain", "xds")
    parser.switch("xds-creds")
    parser.value("fail-first", 0, int)
    parser.value("fail-attempts-below", 0, int)
    parser.value("fail-percent", 0, float)
    parser.choice("fail-code", "UNAVAILABLE", *CODES)
    parser.value("delay-ms", 0, int)
    parser.choice("orca", "none", "per-request", "oob", "both")
    parser.value("orca-cpu", 0, float)
    parser.value("orca-app", 0, float)
    parser.value("orca-qps", 100, float)
    parser.value("orca-eps", 0, float)
    parser.pairs("orca-named", "=")
    parser.value("orca-oob-ms", 1000, int)
    parser.switch("log-rpcs")
    parser.value("admin", "")
    parser.switch("not-serving")
    return parser.parse_args(arguments)


def payload(size):
    return messages.Payload(body=bytes(size))


class Testing(services.TestServiceServicer):
    """The interop service; the ordinary cases ask for most of it."""

    def __init__(self, parsed):
        self.id = parsed.id
        self.behaviour = Behaviour(parsed)

    def EmptyCall(self, request, context):
        self.begin("EmptyCall", context)
        return messages.Empty()

    def UnaryCall(self, request, context):
        call = self.begin("UnaryCall", context)
        status(request, call)
        return messages.SimpleResponse(
            payload=payload(request.response_size), server_id=self.id, hostname=self.id
        )

    def StreamingOutputCall(self, request, context):
        call = self.begin("StreamingOutputCall", context)
        yield from answers(request, call)

    def StreamingInputCall(self, requests, context):
        self.begin("StreamingInputCall", context)
        size = sum(len(request.payload.body) for request in requests)
        return messages.StreamingInputCallResponse(aggregated_payload_size=size)

    def FullDuplexCall(self, requests, context):
        call = self.begin("FullDuplexCall", context)
        for request in requests:
            yield from answers(request, call)

    def begin(self, method, context):
        return self.behaviour.begin(method, EchoingContext(context))


class EchoingContext:
    """A context that adds what the case custom_metadata wants back."""

    def __init__(self, context):
        self.context = context
        self.sent = dict(context.invocation_metadata())

    def __getattr__(self, name):
        return getattr(self.context, name)

    def send_initial_metadata(self, metadata):
        key = "x-grpc-test-echo-initial"
        more = ((key, self.sent[key]),) if key in self.sent else ()
        self.context.send_initial_metadata((*metadata, *more))

    def set_trailing_metadata(self, metadata):
        key = "x-grpc-test-echo-trailing-bin"
        more = ((key, self.sent[key]),) if key in self.sent else ()
        self.context.set_trailing_metadata((*metadata, *more))


def status(request, call):
    """Ends the call with the status that the request asks for, if it does."""
    wanted = request.response_status
    if wanted.code:
        call.context.abort(NUMBERS[wanted.code], wanted.message)


def answers(request, call):
    status(request, call)
    for wanted in request.response_parameters:
        if wanted.interval_us:
            time.sleep(wanted.interval_us / 1e6)
        yield messages.StreamingOutputCallResponse(payload=payload(wanted.size))


class Generic:
    """A server as a service adds itself to it, without the handlers that C-core dispatches to by
    itself: such calls come without their `:authority`."""

    def __init__(self, server):
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service, handlers):
        pass


def health_service(parsed):
    service = health.HealthServicer()
    state = health_pb2.HealthCheckResponse
    state = state.NOT_SERVING if parsed.not_serving else state.SERVING
    for name in ("", "grpc.testing.TestService"):
        service.set(name, state)
    return service


def bind(server, parsed):
    """Binds the port; a meshed server of C-core needs to know its number beforehand."""
    host, _, port = parsed.listen.rpartition(":")
    if parsed.mode == "xds" and port == "0":
        with socket.create_server((host.strip("[]"), 0)) as free:
            port = free.getsockname()[1]
    address = f"{host}:{port}"
    if parsed.xds_creds:
        security = grpc.xds_server_credentials(grpc.insecure_server_credentials())
        bound = server.add_secure_port(address, security)
    else:
        bound = server.add_insecure_port(address)
    # A meshed server has no port to tell of yet.
    return host.strip("[]"), bound if bound > 0 else int(port)


def say_when_serving(host, port):
    """C-core tells nobody about its mode; a meshed server accepts no connection before it serves."""
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            say("serving_mode", mode="SERVING", addr=f"{host}:{port}")
            return


def main(arguments):
    parsed = flags(arguments)
    pool = futures.ThreadPoolExecutor(THREADS)
    server = grpc.server(pool, options=UNLIMITED, xds=parsed.mode == "xds")
    services.add_TestServiceServicer_to_server(Testing(parsed), Generic(server))
    health_pb2_grpc.add_HealthServicer_to_server(health_service(parsed), server)
    if parsed.orca in ("oob", "both"):
        server.add_generic_rpc_handlers((out_of_band(parsed),))
    host, port = bind(server, parsed)
    told = terminated()
    server.start()
    ready = {"addr": f"{host}:{port}", "id": parsed.id, "mode": parsed.mode}
    say("ready", **ready, **admin(parsed.admin))
    if parsed.mode == "xds":
        threading.Thread(target=say_when_serving, args=(host, port), daemon=True).start()
    told.wait()
    server.stop(PATIENCE).wait()
    return 0
