"""A shop that sells pieces of a stock: what is tested in test_shop.py."""

import time
import uuid

import grpc

counters, services = grpc.protos_and_services("tally/v1/counters.proto")
common = grpc.protos("tally/v1/common.proto")


class Shop:
    def __init__(self, endpoints, hasty):
        self.channel = grpc.insecure_channel(f"ipv4:{endpoints}", [("grpc.lb_policy_name", "round_robin")])
        self.stub = services.CountersStub(self.channel)
        self.hasty = hasty

    def sell(self, order):
        """Counts a sale, once for an order."""
        while True:
            # The planted bug: each attempt is another write. An answer that was lost is no write that was not done.
            key = str(uuid.uuid4()) if self.hasty else order
            options = common.WriteOptions(idempotency_key=key)
            try:
                return self.stub.Add(counters.CountersAddRequest(name="sold", delta=1, options=options), timeout=2)
            except grpc.RpcError:
                time.sleep(0.05)

    def sold(self):
        while True:
            try:
                return self.stub.Get(counters.CountersGetRequest(name="sold"), timeout=2).counter.value
            except grpc.RpcError:
                time.sleep(0.05)
