"""How gRPC's C core (Python, C++, Ruby, PHP) may be told of the nodes: each form, and what comes of it.

    PYTHONPATH=proto/proto python forms.py ADDRESS,ADDRESS,ADDRESS

The table in docs/other-languages.md is what this says; it fails where that is not so any more.
"""

import sys
import time

import grpc

counters, services = grpc.protos_and_services("tally/v1/counters.proto")
common = grpc.protos("tally/v1/common.proto")

LIST = sys.argv[1]
ONE = LIST.split(",")[0]
PORT = ONE.split(":")[1]
ROUND_ROBIN, AUTHORITY = ("grpc.lb_policy_name", "round_robin"), ("grpc.default_authority", "tally")


def nodes(target, options):
    """How many nodes answered twelve reads, or the code of the error."""
    read = counters.CountersBatchGetRequest(
        names=["any"], read=common.ReadOptions(level=common.READ_LEVEL_LOCAL))
    with grpc.insecure_channel(target, options) as channel:
        stub = services.CountersStub(channel)
        try:
            grpc.channel_ready_future(channel).result(timeout=5)
            for _ in range(2):
                seen = {stub.BatchGet(read, timeout=5).header.node_id for _ in range(12)}
                time.sleep(0.3)  # until each connection is up, round_robin has fewer to choose from
            return len(seen)
        except grpc.RpcError as error:
            return error.code().name
        except grpc.FutureTimeoutError:
            return "UNREACHABLE"


wrong = 0
for target, options, expected in [
    (ONE, [], 1),
    (f"dns:///{ONE}", [], 1),
    (f"dns:///localhost:{PORT}", [ROUND_ROBIN], 1),
    (f"ipv4:{ONE}", [], 1),
    (f"ipv4:{LIST}", [], 1),
    (f"ipv4:{LIST}", [ROUND_ROBIN], 3),
    (f"ipv4:{LIST}", [AUTHORITY, ROUND_ROBIN], 3),
    (f"dns:///{LIST}", [], "UNREACHABLE"),
]:
    seen = nodes(target, options)
    wrong += seen != expected
    print("as expected" if seen == expected else f"EXPECTED {expected}", target, dict(options), seen)
sys.exit(wrong and f"{wrong} forms differ from docs/other-languages.md")
