"""gRPC's ordinary interop cases, as a client on C-core plays them.

The flags are those of grpc-go's own client of the cases.
"""

import time

import grpc

from .events import Flags, say
from .stubs import UNLIMITED, messages, services

SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
LARGE_REQUEST, LARGE_RESPONSE = 271828, 314159
REQUESTS, RESPONSES = (27182, 8, 1828, 45904), (31415, 9, 2653, 58979)


def expect(is_so, what):
    if not is_so:
        raise AssertionError(what)


def body(size):
    return messages.Payload(body=bytes(size))


def duplex(*sizes, **more):
    wanted = [messages.ResponseParameters(size=size) for size in sizes]
    return messages.StreamingOutputCallRequest(response_parameters=wanted, **more)


def large(**more):
    return messages.SimpleRequest(
        response_size=LARGE_RESPONSE, payload=body(LARGE_REQUEST), **more
    )


def fails(call, code, details=None):
    try:
        call()
    except grpc.RpcError as error:
        expect(error.code() == code, f"{error.code()}, not {code}")
        expect(details is None or error.details() == details, f"{error.details()!r}")
        return
    raise AssertionError(f"no {code}")


def empty_unary(stub):
    expect(stub.EmptyCall(messages.Empty()) == messages.Empty(), "not empty")


def large_unary(stub):
    size = len(stub.UnaryCall(large()).payload.body)
    expect(size == LARGE_RESPONSE, f"{size} bytes")


def compressed_unary(stub):
    request = large(expect_compressed=messages.BoolValue(value=True))
    answer = stub.UnaryCall(request, compression=grpc.Compression.Gzip)
    expect(len(answer.payload.body) == LARGE_RESPONSE, "the wrong size")


def server_compressed_unary(stub):
    for is_wanted in (True, False):
        request = large(response_compressed=messages.BoolValue(value=is_wanted))
        size = len(stub.UnaryCall(request).payload.body)
        expect(size == LARGE_RESPONSE, f"{size} bytes")


def client_streaming(stub):
    requests = (messages.StreamingInputCallRequest(payload=body(size)) for size in REQUESTS)
    size = stub.StreamingInputCall(requests).aggregated_payload_size
    expect(size == sum(REQUESTS), f"{size} bytes")


def server_streaming(stub):
    sizes = [len(a.payload.body) for a in stub.StreamingOutputCall(duplex(*RESPONSES))]
    expect(sizes == list(RESPONSES), f"{sizes}")


class Requests:
    """Requests that are sent one by one."""

    def __init__(self):
        import queue

        self.queue = queue.SimpleQueue()

    def send(self, request):
        self.queue.put(request)

    def close(self):
        self.queue.put(None)

    def __iter__(self):
        return iter(self.queue.get, None)


def ping_pong(stub):
    requests = Requests()
    call = stub.FullDuplexCall(iter(requests))
    for ask, answer in zip(REQUESTS, RESPONSES):
        requests.send(duplex(answer, payload=body(ask)))
        size = len(next(call).payload.body)
        expect(size == answer, f"{size} bytes")
    requests.close()
    expect(list(call) == [], "an answer too many")


def empty_stream(stub):
    expect(list(stub.FullDuplexCall(iter(()))) == [], "an answer to nothing")


def cancel_after_begin(stub):
    requests = Requests()
    call = stub.StreamingInputCall.future(iter(requests))
    call.cancel()
    requests.close()
    expect(call.cancelled() and call.code() == grpc.StatusCode.CANCELLED, "not cancelled")


def cancel_after_first_response(stub):
    requests = Requests()
    call = stub.FullDuplexCall(iter(requests))
    requests.send(duplex(RESPONSES[0], payload=body(REQUESTS[0])))
    expect(len(next(call).payload.body) == RESPONSES[0], "the wrong size")
    call.cancel()
    fails(lambda: next(call), grpc.StatusCode.CANCELLED)
    requests.close()


def timeout_on_sleeping_server(stub):
    request = duplex(RESPONSES[0], payload=body(REQUESTS[0]))
    call = stub.FullDuplexCall(iter([request]), timeout=0.001)
    fails(lambda: list(call), grpc.StatusCode.DEADLINE_EXCEEDED)


def custom_metadata(stub):
    initial = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
    trailing = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")

    def echoed(call):
        expect(initial in tuple(map(tuple, call.initial_metadata())), "no initial metadata")
        expect(trailing in tuple(map(tuple, call.trailing_metadata())), "no trailing metadata")

    _, call = stub.UnaryCall.with_call(large(), metadata=(initial, trailing))
    echoed(call)
    request = duplex(RESPONSES[0], payload=body(REQUESTS[0]))
    call = stub.FullDuplexCall(iter([request]), metadata=(initial, trailing))
    expect(len(list(call)) == 1, "not one answer")
    echoed(call)


def status(stub, message):
    wanted = messages.EchoStatus(code=2, message=message)
    unary = messages.SimpleRequest(response_status=wanted)
    fails(lambda: stub.UnaryCall(unary), grpc.StatusCode.UNKNOWN, message)
    request = messages.StreamingOutputCallRequest(response_status=wanted)
    call = stub.FullDuplexCall(iter([request]))
    fails(lambda: list(call), grpc.StatusCode.UNKNOWN, message)


def unimplemented(channel, service):
    call = channel.unary_unary(f"/grpc.testing.{service}/UnimplementedCall")
    fails(lambda: call(b""), grpc.StatusCode.UNIMPLEMENTED)


def concurrent_large_unary(stub):
    calls = [stub.UnaryCall.future(large()) for _ in range(100)]
    expect(all(len(c.result().payload.body) == LARGE_RESPONSE for c in calls), "the wrong size")


def soak(stub_of, flags):
    slowest = 0
    for _ in range(flags.soak_iterations):
        begun = time.monotonic()
        large_unary(stub_of())
        slowest = max(slowest, time.monotonic() - begun)
    limit = flags.soak_per_iteration_max_acceptable_latency_ms / 1000
    expect(slowest <= limit, f"the slowest call took {slowest:.3f} s")


CASES = {
    "empty_unary": empty_unary,
    "large_unary": large_unary,
    "client_compressed_unary": compressed_unary,
    "server_compressed_unary": server_compressed_unary,
    "client_streaming": client_streaming,
    "server_streaming": server_streaming,
    "ping_pong": ping_pong,
    "empty_stream": empty_stream,
    "cancel_after_begin": cancel_after_begin,
    "cancel_after_first_response": cancel_after_first_response,
    "timeout_on_sleeping_server": timeout_on_sleeping_server,
    "custom_metadata": custom_metadata,
    "status_code_and_message": lambda stub: status(stub, "test status message"),
    "special_status_message": lambda stub: status(stub, SPECIAL),
    "concurrent_large_unary": concurrent_large_unary,
}
CHANNEL_CASES = {
    "unimplemented_method": lambda channel: unimplemented(channel, "TestService"),
    "unimplemented_service": lambda channel: unimplemented(channel, "UnimplementedService"),
}


def main(arguments):
    parser = Flags()
    parser.value("server_host", "127.0.0.1")
    parser.add_argument("--server_port", required=True, type=int)
    parser.add_argument("--test_case", default="large_unary")
    parser.value("soak_iterations", 10, int)
    parser.value("soak_per_iteration_max_acceptable_latency_ms", 1000, int)
    flags = parser.parse_args(arguments)
    options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]

    def channel():
        return grpc.insecure_channel(f"{flags.server_host}:{flags.server_port}", options)

    def one_channel_each():
        return services.TestServiceStub(channel())

    opened = channel()
    stub = services.TestServiceStub(opened)
    try:
        if flags.test_case in CASES:
            CASES[flags.test_case](stub)
        elif flags.test_case in CHANNEL_CASES:
            CHANNEL_CASES[flags.test_case](opened)
        elif flags.test_case == "rpc_soak":
            soak(lambda: stub, flags)
        elif flags.test_case == "channel_soak":
            soak(one_channel_each, flags)
        else:
            parser.error(f"--test_case: no case {flags.test_case!r}")
    except (AssertionError, grpc.RpcError) as error:
        say("case", case=flags.test_case, ok=False, message=str(error))
        return 1
    say("case", case=flags.test_case, ok=True)
    return 0
