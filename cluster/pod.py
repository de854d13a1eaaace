"""What runs in each pod of a Kubernetes job: this machine's ranks, placed by the pod's completion index."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence

from .local import run_node
from .topology import Placement

_NAME_SECONDS = 600.0  # the first pod's name appears when it is scheduled, which may pull an image first


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ranks; returns their exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True, help="of each pod")
    parser.add_argument("--address", required=True, help="name of the first pod")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("worker", nargs="+", help="module name and arguments, as after `python -m`")
    parsed = parser.parse_args(arguments)
    index = int(os.environ["JOB_COMPLETION_INDEX"])
    deadline = time.monotonic() + _NAME_SECONDS
    while not _resolves(parsed.address):
        if time.monotonic() > deadline:
            print(f"dnachunker: {parsed.address}: no such name after {_NAME_SECONDS:g} s", file=sys.stderr)
            return 1
        time.sleep(1)
    return run_node(parsed.worker, Placement(parsed.nodes, index, parsed.ranks, parsed.address, parsed.port))


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
