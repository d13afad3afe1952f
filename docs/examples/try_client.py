"""Tries client.py against a cluster of three real nodes, whose leader is killed meanwhile.

    python3 try_client.py PATH_OF_TALLYD

It starts the nodes on free ports in a directory of its own, and stops them by their process ids.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from client import NOT_APPLIED, UNKNOWN, Failure, Tally, TallyError, Token
from tally.v1 import cluster_pb2, cluster_pb2_grpc, common_pb2

import grpc


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    def __init__(self, tallyd: str, directory: str):
        ports = free_ports(6)
        self.clients = [f"127.0.0.1:{port}" for port in ports[:3]]
        self.peers = [f"127.0.0.1:{port}" for port in ports[3:]]
        self.tallyd, self.directory = tallyd, directory
        self.nodes = [self.start(id) for id in (1, 2, 3)]

    def start(self, id: int) -> subprocess.Popen:
        members = ",".join(f"{number}={peer}" for number, peer in enumerate(self.peers, 1))
        flags = ["serve", "--node-id", str(id), "--data-dir", f"{self.directory}/node-{id}"]
        flags += ["--client-listen", self.clients[id - 1], "--peer-listen", self.peers[id - 1]]
        # Small files: three logs of the usual size are not needed to count to a thousand.
        flags += ["--initial-cluster", members, "--log-segment-bytes", "8388608"]
        flags += ["--disk-reserve-bytes", "16777216"]
        with open(f"{self.directory}/node-{id}.log", "ab") as log:
            return subprocess.Popen([self.tallyd, *flags], stdout=log, stderr=log)

    def leader(self) -> int:
        """The id of the node that leads."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for at in self.clients:
                with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(at) as channel:
                    request = cluster_pb2.ClusterStatusRequest()
                    status = cluster_pb2_grpc.ClusterStub(channel).Status(request, timeout=2)
                    for node in status.nodes:
                        if node.role == common_pb2.ROLE_LEADER and node.reachable:
                            return node.id
            time.sleep(0.1)
        raise AssertionError("no node leads after 30 s")

    def stop(self) -> None:
        for node in self.nodes:
            node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            try:
                node.wait(timeout=15)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def single_calls(cluster: Cluster) -> None:
    tally = Tally(cluster.clients)
    assert tally.add("stock", 2).change.value == 2

    first = tally.add("stock", -1, key="order-1")
    again = tally.add("stock", -1, key="order-1")
    assert first.change.value == again.change.value == 1
    assert again.write.replayed and not first.write.replayed

    try:
        tally.add("stock", -5, floor=0, key="order-2")
        raise AssertionError("it would fall below its floor")
    except TallyError as error:
        assert (error.reason, error.outcome, error.decided) == ("BELOW_FLOOR", NOT_APPLIED, True)
        assert not error.this_call_only, "it was decided under the key"

    assert tally.get("stock") == 1
    assert tally.get_seen("stock") == 1
    tally.close()


def nodes_that_are_gone(cluster: Cluster) -> None:
    # Two of the three addresses lead nowhere: the third one answers.
    tally = Tally([f"127.0.0.1:{port}" for port in free_ports(2)] + cluster.clients[:1])
    for value in range(1, 7):
        assert tally.add("retries").change.value == value
    assert tally.get_seen("retries") == 6
    tally.close()

    # Nobody there: with a key of one's own, nothing is known of earlier calls.
    tally = Tally([f"127.0.0.1:{port}" for port in free_ports(1)], deadline=0.3)
    try:
        tally.add("stock", -1, key="order-1")
        raise AssertionError("nobody is there")
    except TallyError as error:
        # grpcio does not tell a connection that was refused from one that broke.
        assert error.outcome == UNKNOWN or error.this_call_only, error
    tally.close()


def tokens(cluster: Cluster) -> None:
    tally = Tally(cluster.clients)
    for value in range(1, 31):
        tally.add("seen")
        # Each node in turn; none shows less than what was written.
        tally._elsewhere()
        assert tally.get_seen("seen") == value
    other = Tally(cluster.clients)
    other.token = Token("another", 1, b"\x01" + bytes(32))
    try:
        other.get_seen("seen")
        raise AssertionError("the token is another cluster's")
    except TallyError as error:
        assert error.reason == "TOKEN_OF_ANOTHER_CLUSTER", error
    assert other.get_seen("seen") == 30, "told once, then it goes on"
    tally.close()
    other.close()


def stream_whose_leader_dies(cluster: Cluster) -> None:
    tally = Tally(cluster.clients, deadline=30)
    leader = cluster.leader()
    tally._at = leader - 1
    with tally.pipeline() as pipeline:
        answers = []
        for number in range(1000):
            answers.append(pipeline.add("stream"))
            if number == 500:
                cluster.nodes[leader - 1].send_signal(signal.SIGKILL)
                cluster.nodes[leader - 1].wait()
        values = [answer.result(timeout=60).change.value for answer in answers]
    assert sorted(values) == list(range(1, 1001)), "each counted once, and none was lost"
    assert tally.get("stream") == 1000
    tally.close()
    cluster.nodes[leader - 1] = cluster.start(leader)


def details_are_reached(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.clients[0]) as channel:
        from tally.v1 import counters_pb2, counters_pb2_grpc

        try:
            counters_pb2_grpc.CountersStub(channel).Add(counters_pb2.CountersAddRequest(name=""))
            raise AssertionError("a name has at least a byte")
        except grpc.RpcError as error:
            failure = Failure.of_call(error)
    assert failure.is_from_node and failure.outcome == NOT_APPLIED and not failure.decided
    assert failure.reason == "INVALID_REQUEST" and failure.header.node_id == 1


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tally-client-py.") as directory:
        cluster = Cluster(os.path.abspath(sys.argv[1]), directory)
        try:
            cluster.leader()
            for trial in [single_calls, details_are_reached, nodes_that_are_gone, tokens,
                          stream_whose_leader_dies]:
                began = time.monotonic()
                trial(cluster)
                print(f"{trial.__name__}: {time.monotonic() - began:.1f} s")
        except BaseException:
            for id in (1, 2, 3):
                with open(f"{directory}/node-{id}.log") as log:
                    print(f"--- node {id}\n" + "".join(log.readlines()[-15:]), file=sys.stderr)
            raise
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
