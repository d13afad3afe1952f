"""Counts from Python:  PYTHONPATH=proto/proto python hello.py [ADDRESS,ADDRESS,...] [TIMES]

    pip install grpcio grpcio-tools grpcio-status
"""

import sys, time, uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

counters, services = grpc.protos_and_services("tally/v1/counters.proto")
common, errors = grpc.protos("tally/v1/common.proto"), grpc.protos("tally/v1/errors.proto")


class Refused(Exception):
    """`reason` is for programs, `outcome` says what became of the write, over all attempts."""

    def __init__(self, reason, outcome, message):
        super().__init__(f"{outcome}, {reason or 'no answer'}: {message}")
        self.reason, self.outcome = reason, outcome


def details(error):
    info, outcome, retry = error_details_pb2.ErrorInfo(), errors.WriteOutcome(), error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:  # none: no node said this, e.g. the connection broke
        for message in info, outcome, retry:
            detail.Unpack(message)  # does nothing with a detail of another type
    return info.reason, outcome, retry.retry_delay.ToTimedelta().total_seconds()


def add(stub, name, delta, key, seconds=20, **more):
    """Sends the same request under the same key until the cluster has decided, so that it counts once."""
    request = counters.CountersAddRequest(
        name=name, delta=delta, options=common.WriteOptions(idempotency_key=key), **more)
    until, unknown, again = time.monotonic() + seconds, False, {
        grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    while True:
        try:
            return stub.Add(request, timeout=2)
        except grpc.RpcError as error:
            reason, outcome, wait = details(error)
            unknown = not outcome.decided_in_apply and (
                unknown or outcome.outcome != errors.OUTCOME_NOT_APPLIED)  # UNKNOWN sticks until it is decided
            retry = error.code() in again or not reason or outcome.outcome == errors.OUTCOME_UNKNOWN
            if not retry or reason == "DEDUP_TABLE_FULL" or time.monotonic() + wait > until:
                raise Refused(reason, "UNKNOWN" if unknown else "NOT_APPLIED", error.details()) from error
            time.sleep(max(wait, 0.1))


addresses = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"
with grpc.insecure_channel(f"ipv4:{addresses}", [("grpc.lb_policy_name", "round_robin")]) as channel:
    stub = services.CountersStub(channel)
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        answer = add(stub, "hits", 1, key=str(uuid.uuid4()))
    print("hits", answer.change.value)
    order = str(uuid.uuid4())
    big = add(stub, f"big/{order}", 2**53 + 1, key=order)
    same = add(stub, f"big/{order}", 2**53 + 1, key=order)
    print("big", same.change.value, "replayed" if same.write.replayed and not big.write.replayed else "NEW")
    try:
        add(stub, "empty", -1, key=str(uuid.uuid4()), bounds=counters.Bounds(floor=0))
    except Refused as refused:
        print("refused", refused.reason, refused.outcome)
