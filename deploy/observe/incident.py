"""The incident of deploy/incident.sh, which starts this in namespaces of its own.

Three nodes with TLS, each in a network namespace with a small disk; a load; Prometheus with the shipped rules. The
faults come one after the other; each is repaired when the alerts that it has to raise have fired, and the next one
waits until no alert fires. Times begin when the fault or the repair is done. An alert that has to come and does not,
or one that does not end, ends the run with an error; one that comes besides is in the table, marked so.
"""

import argparse
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SCRAPE = "1s"
# Longer than any `for:` of an alert that is expected here (1m), and than an election and a start.
FIRES_WITHIN_S = 150
RESOLVES_WITHIN_S = 90
NODES = (1, 2, 3)
CLIENT, PEER, METRICS, WEB = 7401, 7501, 7601, 9090
# As small as nodes can be, so that disks of this size fill quickly. A disk is above TallyDiskLow's bound, four reserves.
DISK_MIB, RESERVE_MIB = 400, 24
SMALL = ["--log-segment-bytes", "8388608", "--dirty-bytes-max", "4194304",
         "--disk-reserve-bytes", str(RESERVE_MIB << 20), "--snapshot-after-log-bytes", "8388608",
         "--log-entries-kept", "50", "--flush-interval-ms", "200"]
# Below half of a reserve is left: nearly full.
LEFT_MIB = RESERVE_MIB // 4


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"FAILED: {' '.join(map(str, command))}: {done.stdout}")
    return done.stdout


def host(node):
    return f"10.74.0.{node}"


def until(seconds, what, holds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.2)
    raise SystemExit(f"FAILED: not within {seconds} s: {what}")


class Cluster:
    def __init__(self, work, programs):
        self.work, self.programs, self.running = work, programs, {}
        self.certificates = work / "certificates"
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "address", "add", "10.74.0.254/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        run(programs / "tally", "cert", "init", "--dir", self.certificates)
        for node in NODES:
            run("ip", "netns", "add", f"n{node}")
            run("ip", "link", "add", f"v{node}", "type", "veth", "peer", "name", "eth0", "netns", f"n{node}")
            run("ip", "link", "set", f"v{node}", "master", "br0", "up")
            run("ip", "-n", f"n{node}", "address", "add", f"{host(node)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                run("ip", "-n", f"n{node}", "link", "set", link, "up")
            self.data(node).mkdir()
            run("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", self.data(node))
            self.certify(node, 365)
            self.start(node)

    def data(self, node):
        return self.work / f"disk-{node}"

    def certify(self, node, days):
        run(self.programs / "tally", "cert", "node", str(node), "--hosts", host(node), "--days", str(days),
            "--dir", self.certificates, "--force")

    def start(self, node):
        files = []
        for port in ("client", "peer"):
            files += [f"--{port}-tls-cert-file", self.certificates / f"node-{node}.crt",
                      f"--{port}-tls-key-file", self.certificates / f"node-{node}.key"]
        with open(self.work / f"node-{node}.log", "a") as log:
            self.running[node] = subprocess.Popen(
                ["ip", "netns", "exec", f"n{node}", self.programs / "tallyd", "serve", "--node-id", str(node),
                 "--data-dir", self.data(node) / "data", "--client-listen", f"{host(node)}:{CLIENT}",
                 "--peer-listen", f"{host(node)}:{PEER}", "--metrics-listen", f"{host(node)}:{METRICS}",
                 "--insecure-listen-without-authentication", "true",
                 "--initial-cluster", ",".join(f"{each}={host(each)}:{PEER}" for each in NODES),
                 "--peer-tls-ca-file", self.certificates / "ca.crt", *files, *SMALL], stdout=log, stderr=log)

    def metrics(self, node):
        trust = ssl.create_default_context(cafile=self.certificates / "ca.crt")
        try:
            with urllib.request.urlopen(f"https://{host(node)}:{METRICS}/metrics", timeout=2, context=trust) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def leader(self):
        return next((node for node in NODES if "\ntally_is_leader 1" in self.metrics(node)), None)

    def cut_off(self, node):
        """What comes in from peers is lost without a word, at this node and from it at the others."""
        for at in NODES:
            whose = "" if at == node else f"ip saddr {host(node)} "
            rules = f"table inet cut {{ chain input {{ type filter hook input priority 0; " \
                    f"{whose}tcp dport {PEER} drop; {whose}tcp sport {PEER} drop; }}; }}"
            run("ip", "netns", "exec", f"n{at}", "nft", rules)

    def join(self):
        for at in NODES:
            run("ip", "netns", "exec", f"n{at}", "nft", "delete table inet cut")


def alerts():
    """(name, instance) → state, of all alerts that are pending or firing."""
    with urllib.request.urlopen(f"http://127.0.0.1:{WEB}/api/v1/alerts", timeout=5) as answer:
        found = json.load(answer)["data"]["alerts"]
    states = {}
    for alert in found:
        where = alert["labels"].get("instance", "").split(":")[0].replace("10.74.0.", "node ")
        key = (alert["labels"]["alertname"], where or "the cluster")
        states[key] = "firing" if "firing" in (alert["state"], states.get(key)) else "pending"
    return states


class Story:
    """What came of each fault, as rows of the table."""

    def __init__(self):
        self.rows = []

    def play(self, title, expected, fault, repair, meanwhile=None):
        before = time.monotonic()
        detail = fault()
        begun = time.monotonic()
        print(f"-- {title}: {detail} (took {begun - before:.1f} s to do)", flush=True)
        pending, firing = {}, {}

        def look():
            now = time.monotonic() - begun
            for key, state in alerts().items():
                pending.setdefault(key, now)
                if state == "firing" and key not in firing:
                    firing[key] = now
                    print(f"   {now:6.1f} s  {key[0]} fires, {key[1]}", flush=True)
            return {name for name, _ in firing} >= set(expected)

        until(FIRES_WITHIN_S, f"{expected} fire", look)
        # What comes a little later, too.
        end = time.monotonic() + 5
        while time.monotonic() < end:
            look()
            time.sleep(0.2)
        if meanwhile:
            meanwhile()
        repair()
        repaired = time.monotonic()
        resolved = {}

        def gone():
            now, left = time.monotonic() - repaired, alerts()
            for key in firing:
                if left.get(key) != "firing":
                    resolved.setdefault(key, now)
            return "firing" not in left.values() and len(resolved) == len(firing)

        until(RESOLVES_WITHIN_S, f"{list(firing)} end", gone)
        for key in sorted(firing, key=firing.get):
            name = key[0] if key[0] in expected else f"{key[0]} (besides)"
            self.rows.append((title, detail, name, key[1], pending[key], firing[key], resolved[key]))
        only = sorted({name for name, _ in set(pending) - set(firing)})
        print(f"   repaired; all ended; pending only: {', '.join(only) or 'none'}", flush=True)

    def table(self):
        print("| fault | done | alert | of | pending after | firing after | ended, after the repair |")
        print("|---|---|---|---|---|---|---|")
        for title, detail, name, where, *times in self.rows:
            print(f"| {title} | {detail} | {name} | {where} | " + " | ".join(f"{t:.1f} s" for t in times) + " |")


def prometheus(work, repo):
    targets = ", ".join(f'"{host(node)}:{METRICS}"' for node in NODES)
    (work / "prometheus.yml").write_text(f"""\
global: {{scrape_interval: {SCRAPE}, evaluation_interval: {SCRAPE}}}
rule_files: [{repo}/deploy/prometheus/tally.rules.yml]
scrape_configs:
  - job_name: tally
    scheme: https
    tls_config: {{ca_file: {work}/certificates/ca.crt}}
    static_configs: [{{targets: [{targets}]}}]
""")
    with open(work / "prometheus.log", "w") as log:
        return subprocess.Popen(
            ["prometheus", "--config.file", work / "prometheus.yml", "--storage.tsdb.path", work / "tsdb",
             "--web.listen-address", f"127.0.0.1:{WEB}"], stdout=log, stderr=log)


def rules_are_well():
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{WEB}/api/v1/rules", timeout=5) as answer:
            rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
        return rules and all(rule["health"] == "ok" for rule in rules) and "firing" not in alerts().values()
    except OSError:
        return False


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("work", type=Path)
    arguments.add_argument("repo", type=Path)
    arguments.add_argument("programs", type=Path, nargs="?")
    arguments.add_argument("--picture", type=Path)
    given = arguments.parse_args()
    # By its end all that runs in this namespace of processes ends, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    repo = given.repo.resolve()
    programs = (given.programs or repo / "target/release").resolve()
    cluster, story = Cluster(given.work, programs), Story()
    os.environ["TALLY_ENDPOINTS"] = ",".join(f"{host(node)}:{CLIENT}" for node in NODES)
    os.environ["TALLY_TLS_CA"] = str(cluster.certificates / "ca.crt")
    until(60, "a leader", cluster.leader)
    with open(given.work / "load.log", "w") as log:
        load = subprocess.Popen([programs / "tally", "bench", "add-spread", "--rate", "200", "--spread", "1000",
                                 "--duration", "25m"], stdout=log, stderr=log)
    prometheus(given.work, repo)
    until(60, "the rules are evaluated, and none fires", rules_are_well)
    print(f"scraped and evaluated every {SCRAPE}; {run(programs / 'tally', '--version').strip()}; "
          f"node {cluster.leader()} leads", flush=True)

    at = {}

    def kill_leader():
        at["killed"] = cluster.leader()
        # `ip netns exec` has become the node: the same process.
        cluster.running[at["killed"]].kill()
        cluster.running[at["killed"]].wait()
        return f"kill -9 of node {at['killed']}"

    def fill():
        at["filled"] = cluster.leader()
        disk = cluster.data(at["filled"])
        space = os.statvfs(disk)
        with open(disk / "somebody-else", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (LEFT_MIB << 20))
        return f"{LEFT_MIB} MiB left to node {at['filled']}, which led"

    def cut():
        at["cut"] = next(node for node in NODES if node != until(10, "a leader", cluster.leader))
        cluster.cut_off(at["cut"])
        return f"node {at['cut']} from the peer ports, both ways"

    def short():
        cluster.certify(1, 1)
        return "one of node 1 that ends in a day"

    def picture():
        if given.picture:
            run(sys.executable, repo / "deploy/observe/picture.py", given.picture, programs / "tally", "top")

    story.play("leader killed", ["TallyNodeDown", "TallyQuorumAtRisk"], kill_leader,
               lambda: cluster.start(at["killed"]))
    story.play("disk filled", ["TallyDiskFull"], fill,
               lambda: (cluster.data(at["filled"]) / "somebody-else").unlink())
    story.play("follower cut off", ["TallyNoQuorum", "TallyStaleNode"], cut, cluster.join, picture)
    story.play("certificate about to end", ["TallyCertificateEndsIn1Day"], short, lambda: cluster.certify(1, 365))
    if load.poll() is not None:
        raise SystemExit(f"FAILED: the load ended: {(given.work / 'load.log').read_text()}")
    # Its last words: what the callers had of all this.
    load.send_signal(signal.SIGINT)
    load.wait(timeout=60)
    said = (given.work / "load.log").read_text().splitlines()
    print("\n".join(line for line in said if not line.endswith(" 0 errors")), end="\n\n")
    story.table()


main()
