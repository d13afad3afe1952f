#!/usr/bin/env python3
"""Runs pods as containers of Docker, as their specification in the API server says: the part of the kubelet that a node
can tell. Environment with its references, mounts (also by subPathExpr), user, group, read-only root, capabilities, memory,
names of the headless service, and the commands of probes. api-server.sh calls it.

    pods.py start OBJECTS FOLDER IMAGE     OBJECTS: pods, secrets and config maps, as JSON
    pods.py probe FOLDER PROBE SECONDS     until it succeeds in each pod
    pods.py run FOLDER POD [--env NAME] COMMAND...
    pods.py stop FOLDER
"""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def docker(*arguments, **options):
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, **options).stdout.strip()


def expand(text, environment):
    for name, value in environment.items():
        text = text.replace(f"$({name})", value)
    return text


def environment_of(pod, container, objects):
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        **{f"metadata.labels['{name}']": value for name, value in pod["metadata"]["labels"].items()},
    }
    environment = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            value = fields[source["fieldRef"]["fieldPath"]]
        elif "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            value = objects["ConfigMap", reference["name"]]["data"][reference["key"]]
        else:
            value = expand(variable["value"], environment)
        environment[variable["name"]] = value
    return environment


def projected(volume, folder, objects, group):
    """What the kubelet writes for a projected volume of Secrets."""
    for source in volume["projected"]["sources"]:
        data = objects["Secret", source["secret"]["name"]]["data"]
        for item in source["secret"]["items"]:
            path = folder / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(data[item["key"]]))
            path.chmod(volume["projected"]["defaultMode"])
            os.chown(path, 0, group)


def start(objects_path, folder, image):
    items = json.loads(Path(objects_path).read_text())["items"]
    objects = {(item["kind"], item["metadata"]["name"]): item for item in items}
    folder = Path(folder)
    folder.mkdir()
    network = f"tally-pods-{os.getpid()}"
    docker("network", "create", network)
    state = {"network": network, "pods": {}, "volumes": []}
    try:
        for (kind, name), pod in sorted(objects.items()):
            if kind == "Pod":
                state["pods"][name] = run_pod(pod, objects, folder / name, state, image)
    finally:
        (folder / "state.json").write_text(json.dumps(state))


def run_pod(pod, objects, folder, state, image):
    name, spec = pod["metadata"]["name"], pod["spec"]
    (container,) = spec["containers"]
    security, allowed = spec["securityContext"], container["securityContext"]
    environment = environment_of(pod, container, objects)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    headless, namespace = spec["subdomain"], pod["metadata"]["namespace"]
    flags = ["--hostname", spec["hostname"], "--network", state["network"]]
    for suffix in ["", f".{namespace}.svc", f".{namespace}.svc.cluster.local"]:
        flags += ["--network-alias", f"{spec['hostname']}.{headless}{suffix}"]
    for key, value in environment.items():
        flags += ["--env", f"{key}={value}"]
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "projected" in volume:
            projected(volume, folder / mount["name"], objects, security["fsGroup"])
            source = folder / mount["name"] / expand(mount.get("subPathExpr", ""), environment)
        else:
            source = f"{state['network']}-{name}-{mount['name']}"
            state["volumes"].append(source)
        flags += ["--volume", f"{source}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"]
    assert allowed["readOnlyRootFilesystem"] and not allowed["allowPrivilegeEscalation"]
    flags += ["--read-only", "--security-opt", "no-new-privileges", "--user", f"{security['runAsUser']}:{security['runAsGroup']}"]
    for capability in allowed["capabilities"]["drop"]:
        flags += ["--cap-drop", capability]
    flags += ["--memory", container["resources"]["limits"]["memory"].removesuffix("i").lower()]
    return {
        "id": docker("run", "--detach", *flags, image, *container["args"]),
        "probes": {probe: container[probe]["exec"]["command"] for probe in container if probe.endswith("Probe")},
    }


def load(folder):
    return json.loads((Path(folder) / "state.json").read_text())


def probe(folder, which, seconds):
    until = time.monotonic() + float(seconds)
    for name, pod in load(folder)["pods"].items():
        while True:
            asked = ["docker", "exec", pod["id"], *pod["probes"][which]]
            done = subprocess.run(asked, capture_output=True, text=True)
            if done.returncode == 0:
                break
            if time.monotonic() > until:
                subprocess.run(["docker", "logs", "--tail", "20", pod["id"]])
                sys.exit(f"FAILED: {which} of {name}: {done.stdout}{done.stderr}")
            time.sleep(0.5)
        print(f"   {name}: {which}: {done.stdout.strip()}")


def run(folder, name, *command):
    flags = []
    while command[0] == "--env":
        flags += command[:2]
        command = command[2:]
    pod = load(folder)["pods"][name]
    sys.exit(subprocess.run(["docker", "exec", *flags, pod["id"], *command]).returncode)


def stop(folder):
    if not (Path(folder) / "state.json").exists():
        return
    state = load(folder)
    for pod in state["pods"].values():
        subprocess.run(["docker", "rm", "--force", "--volumes", pod["id"]], capture_output=True)
    for volume in state["volumes"]:
        subprocess.run(["docker", "volume", "rm", volume], capture_output=True)
    subprocess.run(["docker", "network", "rm", state["network"]], capture_output=True)


if __name__ == "__main__":
    {"start": start, "probe": probe, "run": run, "stop": stop}[sys.argv[1]](*sys.argv[2:])
