"""Messages and stubs of the interop service, made of its description when they are first needed."""

import pathlib
import sys

import grpc

_protos = pathlib.Path(__file__).parents[2] / "protos/grpc/testing"
# By the file's name alone: `grpc.testing` would be looked for in the package grpc.
sys.path.append(str(_protos))
messages, services = grpc.protos_and_services("test.proto")

UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


def admin(address):
    """Serves CSDS and channelz at an address; the ready event says where."""
    if not address:
        return {}
    from concurrent import futures

    import grpc_admin

    server = grpc.server(futures.ThreadPoolExecutor(4))
    grpc_admin.add_admin_servicers(server)
    port = server.add_insecure_port(address)
    server.start()
    # It lives as long as the process.
    admin.server = server
    return {"admin": f"{address.rpartition(':')[0]}:{port}"}
