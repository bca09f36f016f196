"""Asks a process what it runs, with the published stubs: `python_csds.py HOST:PORT`.

Prints one JSON object for each resource and one for the end. Fails if an answer is not as the
published descriptors have it.
"""

import json
import sys

import grpc
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from envoy.type.matcher.v3 import node_pb2

MESSAGES = [
    listener_pb2.Listener,
    route_pb2.RouteConfiguration,
    cluster_pb2.Cluster,
    endpoint_pb2.ClusterLoadAssignment,
]


def describe(config):
    """A resource, its content read by the published type."""
    event = {
        "event": "resource",
        "type": config.type_url.rsplit(".", 1)[-1],
        "name": config.name,
        "version": config.version_info,
        "status": config_dump_shared_pb2.ClientResourceStatus.Name(config.client_status),
        "has_time": config.last_updated.seconds > 0,
    }
    if config.HasField("error_state"):
        event["error"] = config.error_state.details
    for kind in MESSAGES:
        if config.xds_config.Is(kind.DESCRIPTOR):
            message = kind()
            config.xds_config.Unpack(message)
            inner = getattr(message, "name", "") or getattr(message, "cluster_name", "")
            event["content"] = inner
            if kind is listener_pb2.Listener:
                manager = http_connection_manager_pb2.HttpConnectionManager()
                event["is_api_listener"] = message.api_listener.api_listener.Unpack(manager)
    return event


def say(event):
    print(json.dumps(event), flush=True)


def main():
    channel = grpc.insecure_channel(sys.argv[1])
    stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
    empty = csds_pb2.ClientStatusRequest()
    answer = stub.FetchClientStatus(empty, timeout=20, wait_for_ready=True)
    (client,) = answer.config
    for config in client.generic_xds_configs:
        say(describe(config))
    streamed = list(stub.StreamClientStatus(iter([empty, empty]), timeout=20))
    matching = csds_pb2.ClientStatusRequest(node_matchers=[node_pb2.NodeMatcher()])
    try:
        stub.FetchClientStatus(matching, timeout=20)
        refused = "OK"
    except grpc.RpcError as error:
        refused = error.code().name
    same = all(len(a.config[0].generic_xds_configs) == len(client.generic_xds_configs) for a in streamed)
    say(
        {
            "event": "summary",
            "node": client.node.id,
            "agent": client.node.user_agent_name,
            "resources": len(client.generic_xds_configs),
            "streamed": len(streamed) if same else 0,
            "refused": refused,
        }
    )
    channel.close()


main()
