#!/usr/bin/env python3
"""Figures of compare.sh as tables, verdicts and plots.

    report.py RESULTS [--doc FILE] [--plots DIRECTORY]
    report.py --insert NAME DOC <TABLE
    report.py --self-test

With --doc it replaces what is between `<!-- table:NAME -->` and `<!-- /table:NAME -->` in a file, so
that the doc is made again by a command. With --plots it writes an SVG for each comparison. Without
either it prints the tables. Needs nothing but Python 3.
"""

import json
import os
import re
import statistics
import sys
from pathlib import Path

# What is not equal, said beside the figures of each peer.
UNEQUAL = {
    "etcd": "etcd has no counters: an add is a read and a transaction that compares the revision, "
    "repeated until it wins. One that is sent again after a lost answer may count twice; Tally's counts "
    "once. etcd is called at its leader, where it is fastest; Tally's library finds its own. `local` is "
    "etcd's `serializable`.",
    "redis": "Redis has no consensus. WAIT 1 says that one replica has received the write; that "
    "replica's own fsync is not waited for, and a failover may lose it. An INCR that is sent again after "
    "a lost answer counts twice. `redis-no-wait` does not wait for a replica at all.",
    "nats": "NATS reads from any replica without a promise; Tally's rows beside it are local reads. "
    "Its adds carry no message id, so one that is sent again may count twice.",
    "tally": "The floor is gRPC alone, against a server without storage, measured in the same run.",
}

# Said below each table.
SHARED = (
    "Memory is that of the largest of three nodes. Both systems are up all the time, and what is not "
    "measured is idle; what one case has written is there in the next."
)

TITLES = {
    "etcd": "Beside etcd",
    "redis": "Beside Redis",
    "nats": "Beside NATS JetStream",
    "tally": "Tally alone",
}


def load(path):
    """The head of a run, and its measurements as (case, system) -> list of figures."""
    head, cases = {}, {}
    for line in Path(path).read_text().splitlines():
        record = json.loads(line)
        if "case" in record:
            figures = record["figures"] | {"run": record["run"]}
            cases.setdefault((record["case"], record["system"]), []).append(figures)
        else:
            head.update(record)
    return head, cases


def part(case):
    """The part of the comparison that a case is of: a peer, or tally alone."""
    return case.split("-")[0]


def median(figures, name):
    values = [run[name] for run in figures if run.get(name) is not None]
    return statistics.median(values) if values else None


def ratio_of(figures, name):
    values = [run["ratios"][name] for run in figures if name in run.get("ratios", {})]
    return statistics.median(values) if values else None


def grouped(number):
    return "" if number is None else f"{number:,.0f}"


def millis(micros):
    if micros is None:
        return ""
    return f"{micros / 1000:.2f}" if micros < 10_000 else f"{micros / 1000:,.1f}"


def per_op(micros):
    return "" if micros is None else f"{micros:,.1f}" if micros < 100 else f"{micros:,.0f}"


def mebibytes(size):
    return "" if size is None else f"{size / 1048576:,.0f}"


def table(rows):
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(row) + " |" for row in rows[1:]]
    return "\n".join(lines)


def what(figures):
    """The workload and how it is called, in a few words."""
    first = figures[0]
    text = first["workload"]
    if "read" in first:
        text += f" {first['read']}"
    depth = first.get("depth", 1)
    return text, f"{first['clients']}" + (f" x {depth}" if depth > 1 else "")


def comparison(peer, cases):
    rows = [["workload", "clients", "system", "operations/s (min to max)", "p50 ms", "p95 ms", "p99 ms",
             "p99.9 ms", "max ms", "server CPU µs/op", "memory MiB", "errors"]]
    for (case, system), figures in cases.items():
        if part(case) != peer:
            continue
        rates = [run["ops_per_second"] for run in figures]
        workload, clients = what(figures)
        spread = f" ({grouped(min(rates))} to {grouped(max(rates))})" if len(rates) > 1 else ""
        rows.append([
            workload, clients, system, f"**{grouped(statistics.median(rates))}**{spread}",
            *(millis(median(figures, f"{name}_us")) for name in ("p50", "p95", "p99", "p999", "max")),
            per_op(median(figures, "server_cpu_us_per_op")),
            mebibytes(median(figures, "server_rss_max_bytes")),
            grouped(sum(run["errors"] for run in figures)),
        ])
    said = UNEQUAL[peer] + ("" if peer == "tally" else f" {SHARED}")
    return table(rows) + f"\n\n{said}" if len(rows) > 1 else None


def floor(cases):
    """What the ground allows: from the runs that measured it."""
    rows = [["what", "clients", "operations/s", "p50 µs", "server CPU µs/op"]]
    parts, syncs = {}, []
    for figures in cases.values():
        for run in figures:
            for name, part in run.get("baseline", {}).items():
                parts.setdefault((name.replace("_alone", ""), part["clients"]), []).append(part)
            if "fsync" in run:
                syncs.append(run["fsync"]["p50_us"])
    for (name, clients), runs in sorted(parts.items()):
        rows.append([f"gRPC alone, {name}", str(clients), grouped(median(runs, "ops_per_second")),
                     grouped(median(runs, "p50_us")), per_op(median(runs, "server_cpu_us_per_op"))])
    if syncs:
        rows.append(["append of 4 KiB and fdatasync", "1", "", grouped(statistics.median(syncs)), ""])
    return table(rows) if len(rows) > 1 else None


class Targets:
    """What Tally has to reach, each against a figure of the same run."""

    def __init__(self, cases):
        self.cases = cases
        self.rows = [["what", "wanted", "measured", "reached", "`compare.sh`"]]

    def of(self, case, system, name="ops_per_second"):
        figures = self.cases.get((case, system))
        return median(figures, name) if figures else None

    def add(self, only, text, wanted, measured, at_most=False, unit=" x"):
        """A row. `only`: the part of the comparison that shows it, or None for all of it."""
        if measured is None:
            return
        reached = measured <= wanted if at_most else measured >= wanted
        bound = "at most" if at_most else "at least"
        show = (lambda it: f"{it:,.0f}") if abs(wanted) >= 100 else (lambda it: f"{it:.2f}")
        self.rows.append([text, f"{bound} {show(wanted)}{unit}", f"{show(measured)}{unit}",
                          "yes" if reached else "**no**", f"`--only {only}`" if only else "all of it"])

    def ratio(self, case, above, below, name):
        """The median of the runs' ratios: the two stand side by side in each run, and the machine of
        one run may be half as fast as that of the next."""
        below = {run["run"]: run[name] for run in self.cases.get((case, below), []) if run.get(name)}
        ratios = [run[name] / below[run["run"]] for run in self.cases.get((case, above), [])
                  if run.get(name) is not None and run["run"] in below]
        return statistics.median(ratios) if ratios else None

    def times(self, text, wanted, case, ours, theirs):
        """Ours as a multiple of theirs: operations a second."""
        self.add(part(case), text, wanted, self.ratio(case, ours, theirs, "ops_per_second"))

    def lower(self, text, wanted, case, ours, theirs):
        """How many times lower our p99 is."""
        self.add(part(case), text, wanted, self.ratio(case, theirs, ours, "p99_us"))

    def spike(self):
        """The worst p99.9 of writes under load, as a multiple of their p50, of all single runs: a flush may
        fall into only one of three."""
        writes = ("add-hot", "add-spread", "put", "apply-transfer")
        return max((run["p999_us"] / run["p50_us"] for (_, system), figures in self.cases.items()
                    for run in figures if system.startswith("tally") and run["workload"] in writes
                    and run["clients"] >= 64 and run.get("p50_us")), default=None)

    def table(self):
        hot = "one hot counter, 64 clients"
        self.times(f"{hot}, unary: etcd's loop", 100, "etcd-hot-64", "tally-unary", "etcd")
        self.lower(f"{hot}, unary: p99, lower than etcd's loop", 500, "etcd-hot-64", "tally-unary", "etcd")
        self.times("one hot counter, 256 clients, unary: NATS", 1, "nats-hot-256", "tally-unary", "nats")
        for clients in (64, 256):
            name = f"one hot counter, {clients} clients, library"
            self.times(f"{name}: Redis with WAIT", 2, f"redis-hot-{clients}", "tally", "redis")
            self.times(f"{name}: NATS", 3, f"nats-hot-{clients}", "tally", "nats")
        for what_, wanted, name in (("one hot counter", 150_000, "hot"), ("spread counters", 80_000, "spread")):
            deep = [self.of(f"tally-{name}-{how}", "tally") for how in ("pipelined", "window")]
            deep = [rate for rate in deep if rate is not None]
            self.add("tally", f"{what_}, library, pipelined", wanted, max(deep, default=None), unit="/s")
        self.times("put, 64 clients, library: etcd", 4, "etcd-put-64", "tally", "etcd")
        self.lower("put, 64 clients, library: p99, lower than etcd", 4, "etcd-put-64", "tally", "etcd")
        self.times("put, 64 clients, unary: etcd", 2.5, "etcd-put-64", "tally-unary", "etcd")
        get = "linearizable get, 64 clients"
        self.times(f"{get}, library: etcd", 3, "etcd-get-linearizable-64", "tally", "etcd")
        self.times(f"{get}, unary: etcd", 2, "etcd-get-linearizable-64", "tally-unary", "etcd")
        local = self.cases.get(("tally-get-local-64", "tally-unary"), [])
        self.add("tally", "local get, 64 clients, unary: gRPC's floor, of this", 1.3,
                 ratio_of(local, "unary_floor_to_this"), at_most=True)
        for case, name in (("tally-lone-add", "add"), ("tally-lone-put", "put")):
            for system in ("tally", "tally-unary"):
                lone = self.cases.get((case, system), [])
                self.add("tally", f"a lone {name}, {system}: of one fdatasync + two round trips", 1.5,
                         ratio_of(lone, "lone_write_to_floor"), at_most=True)
        self.add(None, "writes, 64 clients and more, with flushes in the background: p99.9, of p50, in the worst of all runs", 10,
                 self.spike(), at_most=True)
        return table(self.rows) if len(self.rows) > 1 else None


def machine(head):
    at, versions = head.get("machine", {}), head.get("versions", {})
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{at.get('cpu')}, {at.get('cores')} cores, {at.get('memory')}, {at.get('kernel')}, "
        f"{at.get('filesystem')}; {at.get('host')}; load {at.get('load')} before the first run. {text}. "
        f"{head.get('runs')} runs of {head.get('seconds')} s each after a warm-up, the systems of a "
        "case in turn; medians, with the lowest and the highest. Three nodes a system, clients on the "
        "same machine; values of 256 bytes; spread over "
        f"{grouped(head.get('spread'))} names. Every write is synced before it is acknowledged: tally "
        "always; etcd always; Redis `appendfsync always` on all three, and WAIT 1; NATS `sync_interval: "
        "always`, R3."
    )


def svg(title, bars):
    """Bars with a whisker from the lowest to the highest run. bars: (label, low, middle, high)."""
    width, height, left, right, top = 860, 24, 250, 110, 44
    most = max(high for _, _, _, high in bars)
    at = lambda value: left + (width - left - right) * value / most
    colours = {"tally": "#1f6feb", "tally-unary": "#79b8ff"}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + height * len(bars) + 12}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" fill="#111111">{escaped(title)}</text>',
    ]
    for row, (label, low, middle, high) in enumerate(bars):
        y = top + row * height
        colour = colours.get(label.split()[-1], "#8c959f")
        out.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end" fill="#111111">{escaped(label)}</text>')
        out.append(f'<rect x="{left}" y="{y + 3}" width="{at(middle) - left:.1f}" height="15" fill="{colour}"/>')
        out.append(f'<path d="M{at(low):.1f} {y + 10.5}H{at(high):.1f}" stroke="#111111" stroke-width="1"/>')
        out.append(f'<text x="{at(high) + 6:.1f}" y="{y + 14}" fill="#111111">{grouped(middle)}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def plots(cases):
    """Name -> SVG: throughput of each case of a peer."""
    made = {}
    for peer, title in TITLES.items():
        bars = []
        for (case, system), figures in cases.items():
            if part(case) != peer:
                continue
            rates = [run["ops_per_second"] for run in figures]
            workload, clients = what(figures)
            bars.append((f"{workload}, {clients}, {system}", min(rates), statistics.median(rates), max(rates)))
        if bars:
            made[peer] = svg(f"{title}: operations a second", [
                (label.replace(", ", " ").replace(" x ", "x"), *rest) for label, *rest in bars])
    return made


def tables(head, cases):
    made = {"machine": machine(head), "floor": floor(cases), "targets": Targets(cases).table()}
    for peer in TITLES:
        made[peer] = comparison(peer, cases)
    return {name: text for name, text in made.items() if text}


def insert(text, name, content):
    """Replaces what is between the markers; they must be there once."""
    begin, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    found = pattern.findall(text)
    if len(found) != 1:
        raise SystemExit(f"the doc has {begin} ... {end} {len(found)} times, not once")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def self_test():
    run = lambda rate, number=1, **more: {
        "run": number, "workload": "add-hot", "clients": 64, "depth": 1, "ops_per_second": rate, "p50_us": 900,
        "p95_us": 5_000, "p99_us": 12_000, "p999_us": 15_000, "max_us": 20_000, "server_cpu_us_per_op": 33.25, "errors": 0, **more}
    cases = {
        ("etcd-hot-64", "tally-unary"): [run(20_000.0), run(30_000.0, 2), run(10_000.0, 3)],
        ("etcd-hot-64", "etcd"): [run(100.0, p99_us=9_000_000), run(250.0, 3, p99_us=9_000_000)],
        ("tally-lone-add", "tally"): [run(900.0, clients=1, ratios={"lone_write_to_floor": 1.75},
                                          fsync={"p50_us": 200},
                                          baseline={"unary_alone": run(9_000.0, clients=1)})],
    }
    made = tables({"runs": 3}, cases)
    assert "| add-hot | 64 | tally-unary | **20,000** (10,000 to 30,000) | 0.90 | 5.00 | 12.0 | 15.0 | 20.0 |" in made["etcd"]
    assert UNEQUAL["etcd"] in made["etcd"] and "redis" not in made
    # Of 200 and 40; the second run has nothing to be compared with.
    assert "| at least 100 x | 120 x | yes | `--only etcd` |" in made["targets"], made["targets"]
    assert "| at least 500 x | 750 x | yes | `--only etcd` |" in made["targets"]
    assert "| at most 1.50 x | 1.75 x | **no** | `--only tally` |" in made["targets"]
    assert "| at most 10.00 x | 16.67 x | **no** | all of it |" in made["targets"], "a spike is seen"
    assert "| gRPC alone, unary | 1 | 9,000 | 900 |" in made["floor"]
    doc = "a\n<!-- table:floor -->\nold\n<!-- /table:floor -->\nb"
    assert insert(doc, "floor", "new") == doc.replace("old", "new")
    try:
        insert(doc, "etcd", "new")
    except SystemExit:
        pass
    else:
        raise AssertionError("a doc without its markers is refused")
    import xml.dom.minidom
    for name, image in plots(cases).items():
        root = xml.dom.minidom.parseString(image).documentElement
        assert root.tagName == "svg" and root.getElementsByTagName("rect"), name
    assert sorted(plots(cases)) == ["etcd", "tally"]
    print("report.py: the self-test passed")


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    if arguments[:1] == ["--insert"] and len(arguments) == 3:
        path = Path(arguments[2])
        path.write_text(insert(path.read_text(), arguments[1], sys.stdin.read().rstrip()))
        return None
    if not arguments or arguments[0].startswith("-") or len(arguments) % 2 == 0:
        raise SystemExit(__doc__)
    options = dict(zip(arguments[1::2], arguments[2::2]))
    if set(options) - {"--doc", "--plots"}:
        raise SystemExit(__doc__)
    head, cases = load(arguments[0])
    made = tables(head, cases)
    if "--plots" in options:
        directory = Path(options["--plots"])
        directory.mkdir(parents=True, exist_ok=True)
        for name, image in plots(cases).items():
            (directory / f"{name}.svg").write_text(image)
    if "--doc" not in options:
        for name, text in made.items():
            print(f"\n## {name}\n\n{text}")
        return None
    path = Path(options["--doc"])
    if "--plots" in options:
        directory = os.path.relpath(options["--plots"], path.parent)
        for peer in TITLES.keys() & made.keys():
            made[peer] += f"\n\n![{TITLES[peer]}: operations a second]({directory}/{peer}.svg)"
    text = path.read_text()
    for name, content in made.items():
        text = insert(text, name, content)
    path.write_text(text)
    print(f"{path}: {', '.join(made)}")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
