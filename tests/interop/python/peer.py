"""Peers on gRPC C-core for the interop suite, on the contract of our own interop programs.

`peer.py client|server [flags]`; `peer.py cases --server_host=H --server_port=P --test_case=NAME`
plays one of gRPC's ordinary interop cases. One JSON object per line on standard output.
"""

import sys

from peers import cases, client, events, server

VERBS = {"client": client.main, "server": server.main, "cases": cases.main}


def main():
    verb = VERBS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if verb is None:
        events.refuse(f"usage: peer.py {'|'.join(VERBS)} [flags]")
    try:
        sys.exit(verb(sys.argv[2:]))
    except (OSError, RuntimeError, ValueError) as error:
        events.refuse(str(error))


if __name__ == "__main__":
    main()
