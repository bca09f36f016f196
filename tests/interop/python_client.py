"""A gRPC C-core client for the interop suite: `python_client.py TARGET N insecure|xds`.

Calls grpc.testing.TestService/UnaryCall N times and prints one JSON object per line.
"""

import json
import sys

import grpc


def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def fields(data):
    """Top-level fields of a protobuf message, as (number, value) pairs."""
    at = 0

    def number():
        nonlocal at
        shift = value = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        elif key & 7 == 2:
            size = number()
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {key & 7}")


def main():
    target, n, creds = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if creds == "xds":
        fallback = grpc.insecure_channel_credentials() if hasattr(grpc, "insecure_channel_credentials") else None
        from grpc.experimental import insecure_channel_credentials

        channel = grpc.secure_channel(target, grpc.xds_channel_credentials(fallback or insecure_channel_credentials()))
    else:
        channel = grpc.insecure_channel(target)
    call = channel.unary_unary("/grpc.testing.TestService/UnaryCall")
    request = varint(9 << 3) + varint(1)  # fill_server_id
    ok = 0
    for i in range(n):
        try:
            answer = dict(fields(call(request, timeout=20, wait_for_ready=True)))
            ok += 1
            print(json.dumps({"event": "rpc", "i": i, "code": "OK", "server": answer.get(4, b"").decode()}), flush=True)
        except grpc.RpcError as error:
            print(json.dumps({"event": "rpc", "i": i, "error": str(error)}), flush=True)
    print(json.dumps({"event": "summary", "total": n, "ok": ok}), flush=True)
    channel.close()


main()
