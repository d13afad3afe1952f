#!/usr/bin/env python3
"""Checks rendered manifests: strictly against the published schemas of several versions of Kubernetes, and for what no
schema can know: that selectors, ports and names meet, that the peer port stays among nodes, and that tallyd takes the
environment. check.sh calls it.

    check.py [--tallyd PROGRAM] NAME=FILE...
"""

import argparse
import os
import subprocess
import sys

import kubernetes_validate
import yaml

# The oldest that is promised, and the newest that the schemas are of.
VERSIONS = ["1.28", kubernetes_validate.latest_version()]

# Of others' kinds, which the schemas do not have: cert-manager's. api-server.sh applies them beside their CRDs.
FOREIGN_GROUPS = ["cert-manager.io"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tallyd")
    parser.add_argument("rendered", nargs="+")
    arguments = parser.parse_args()
    for rendered in arguments.rendered:
        name, path = rendered.split("=", 1)
        with open(path) as file:
            documents = [document for document in yaml.safe_load_all(file) if document]
        schemas(name, documents)
        meet(name, documents)
        count = environment(name, documents, arguments.tallyd) if arguments.tallyd else 0
        said = f", tallyd takes the environment of {count} pods" if count else ""
        print(f"   {name}: {len(documents)} objects are valid in {' and '.join(VERSIONS)}, and meet{said}")


def fail(name, problem):
    sys.exit(f"FAILED: {name}: {problem}")


def expect(name, what, holds):
    if not holds:
        fail(name, what)


def schemas(name, documents):
    for document in documents:
        if document["apiVersion"].split("/")[0] in FOREIGN_GROUPS:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                at = "/".join(map(str, error.path))
                fail(name, f"{document['kind']} {document['metadata']['name']}, {version}: {at}: {error.message}")


def meet(name, documents):
    """What has to fit between the objects."""

    def of(kind):
        return [document for document in documents if document["kind"] == kind]

    (nodes,) = of("StatefulSet")
    template = nodes["spec"]["template"]
    labels = template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    count = nodes["spec"]["replicas"]

    def selects_nodes(selector):
        return selector and all(labels.get(key) == value for key, value in selector.items())

    expect(name, "the set selects its pods", selects_nodes(nodes["spec"]["selector"]["matchLabels"]))
    services = {service["metadata"]["name"]: service["spec"] for service in of("Service")}
    for service, spec in services.items():
        expect(name, f"Service {service} selects the nodes", selects_nodes(spec["selector"]))
        for port in spec["ports"]:
            expect(name, f"Service {service}: {port['targetPort']} is a port", port["targetPort"] in ports)
    headless = services[nodes["spec"]["serviceName"]]
    expect(name, "the set's service is headless", headless["clusterIP"] == "None")
    expect(name, "... and has those that are not ready", headless["publishNotReadyAddresses"])
    expect(name, "clients' service has no peer port", [port["port"] for port in services["tally"]["ports"]] == [7401])

    (budget,) = of("PodDisruptionBudget")
    expect(name, "the budget selects the nodes", selects_nodes(budget["spec"]["selector"]["matchLabels"]))
    expect(name, "the budget is one node", budget["spec"]["maxUnavailable"] == 1)

    (policy,) = of("NetworkPolicy")
    expect(name, "the policy selects the nodes", selects_nodes(policy["spec"]["podSelector"]["matchLabels"]))
    expect(name, "the policy is of both directions", set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"})
    peer_rules = [rule for rule in policy["spec"]["ingress"] if "peer" in [port["port"] for port in rule["ports"]]]
    node = {"podSelector": {"matchLabels": nodes["spec"]["selector"]["matchLabels"]}}
    expect(name, "nodes alone reach the peer port", [rule["from"] for rule in peer_rules] == [[node]])
    expect(name, "every rule names ports", all(rule["ports"] for rule in policy["spec"]["ingress"]))

    affinity = template["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    apart = affinity[0]
    expect(name, "a machine has one node at most", apart["topologyKey"] == "kubernetes.io/hostname")
    expect(name, "... of these nodes", selects_nodes(apart["labelSelector"]["matchLabels"]))

    first = [member for config in of("ConfigMap") for member in config["data"]["initial_cluster"].split(",")]
    wanted = [f"{number}=tally-{number}.tally-peers:{ports['peer']}" for number in range(1, count + 1)]
    expect(name, f"the first members are the pods: {first}", first == wanted)
    projected = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "certificates")
    secrets = [source["secret"]["name"] for source in projected["projected"]["sources"]]
    wanted = [f"tally-node-{number}" for number in range(1, count + 1)]
    expect(name, f"each pod has a certificate: {secrets}", secrets == wanted)

    def asks(probe):
        return container[probe]["exec"]["command"][1:]

    expect(name, "readiness asks for a quorum", asks("readinessProbe") == ["health", "--service", "tally.linearizable"])
    expect(name, "liveness asks for the process alone", asks("livenessProbe") == ["health"])
    expect(name, "so does the start", asks("startupProbe") == ["health"])
    grace = template["spec"]["terminationGracePeriodSeconds"]
    expect(name, "a pod has more time to stop than a node takes", grace > 5)


def environment(name, documents, tallyd):
    """What the kubelet would make of each pod's environment, given to tallyd, which refuses what it does not know."""
    (nodes,) = [document for document in documents if document["kind"] == "StatefulSet"]
    maps = {document["metadata"]["name"]: document["data"] for document in documents if document["kind"] == "ConfigMap"}
    spec = nodes["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    for number in range(1, spec["replicas"] + 1):
        fields = {
            "metadata.labels['apps.kubernetes.io/pod-index']": str(number),
            "metadata.name": f"tally-{number}",
            "metadata.namespace": nodes["metadata"]["namespace"],
        }
        found = {"TALLY_CLIENT_LISTEN": "0.0.0.0:7401", "TALLY_PEER_LISTEN": "0.0.0.0:7501"}  # the image's own
        for variable in container["env"]:
            source = variable.get("valueFrom", {})
            if "fieldRef" in source:
                value = fields[source["fieldRef"]["fieldPath"]]
            elif "configMapKeyRef" in source:
                value = maps[source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
            else:
                value = variable["value"]
                for known, its in found.items():
                    value = value.replace(f"$({known})", its)
            found[variable["name"]] = value
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TALLY_")}
        done = subprocess.run(
            [tallyd, *container["args"], "--print-config"], env={**kept, **found}, capture_output=True, text=True
        )
        expect(name, f"tallyd takes the environment of tally-{number}: {done.stderr}", done.returncode == 0)
        printed = done.stdout.splitlines()
        for line in [
            f"node_id = {number}",
            "authentication = true",
            "insecure_listen_without_tls = false",
            "insecure_listen_without_authentication = false",
            f'client_advertise = "tally-{number}.tally-peers.tally.svc:7401"',
        ]:
            expect(name, f"tally-{number} has {line}", line in printed)
    return spec["replicas"]


if __name__ == "__main__":
    main()
