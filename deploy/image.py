#!/usr/bin/env python3
"""Writes an image of static programs as an archive, in OCI's layout and in Docker's, byte by byte the same for the same
input. deploy/release.sh calls it: a Docker build stamps what it makes with the time, and here there is nothing to build.

Layers are not compressed, as the bytes of that would hang on the version of a library; a push compresses them.
"""

import argparse
import hashlib
import io
import json
import tarfile
from datetime import datetime, timezone
from pathlib import Path

# As deploy/Dockerfile has it.
USER = 65532


def main():
    parser = argparse.ArgumentParser()
    for name in ["arch", "version", "commit", "time", "programs", "license", "out"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("documents", nargs="*", help="what lies beside the licence")
    arguments = parser.parse_args()
    moment = int(arguments.time)
    created = datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    layer = tree(arguments, moment)
    labels = {
        "org.opencontainers.image.title": "tally",
        "org.opencontainers.image.description": "Tally, a replicated counter and key-value store",
        "org.opencontainers.image.version": arguments.version,
        "org.opencontainers.image.revision": arguments.commit,
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.source": "https://github.com/tally-db/tally",
        "org.opencontainers.image.url": "https://github.com/tally-db/tally",
        "org.opencontainers.image.documentation": "https://github.com/tally-db/tally/blob/main/docs/deployment.md",
    }
    config = as_json({
        "architecture": arguments.arch,
        "os": "linux",
        "created": created,
        "config": {
            "User": f"{USER}:{USER}",
            "ExposedPorts": {"7401/tcp": {}, "7501/tcp": {}},
            "Env": [
                "PATH=/usr/local/bin",
                "TALLY_DATA_DIR=/var/lib/tally",
                "TALLY_CLIENT_LISTEN=0.0.0.0:7401",
                "TALLY_PEER_LISTEN=0.0.0.0:7501",
            ],
            "Entrypoint": ["/usr/local/bin/tallyd"],
            "Cmd": ["serve"],
            "Volumes": {"/var/lib/tally": {}},
            "WorkingDir": "/var/lib/tally",
            "StopSignal": "SIGTERM",
            # Docker's own; the same as in the Dockerfile. In nanoseconds.
            "Healthcheck": {
                "Test": ["CMD", "/usr/local/bin/tallyd", "health"],
                "Interval": 10_000_000_000,
                "Timeout": 3_000_000_000,
                "StartPeriod": 30_000_000_000,
                "Retries": 3,
            },
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
        "history": [{"created": created, "created_by": "deploy/release.sh"}],
    })
    layer_type = "application/vnd.oci.image.layer.v1.tar"
    manifest = as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", config),
        "layers": [described(layer_type, layer)],
        "annotations": labels,
    })
    name = f"tally:{arguments.version}"
    index = as_json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            **described("application/vnd.oci.image.manifest.v1+json", manifest),
            "platform": {"architecture": arguments.arch, "os": "linux"},
            "annotations": {
                "io.containerd.image.name": f"docker.io/library/{name}",
                "org.opencontainers.image.ref.name": arguments.version,
            },
        }],
    })
    dockers = as_json([{"Config": blob(config), "RepoTags": [name], "Layers": [blob(layer)]}])
    files = {
        "oci-layout": as_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": index,
        "manifest.json": dockers,
        **{blob(content): content for content in [config, manifest, layer]},
    }
    folders = ["blobs", "blobs/sha256"]
    with tarfile.open(arguments.out, "w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in folders:
            add(archive, folder, None, moment)
        for path, content in sorted(files.items()):
            add(archive, path, content, moment)
    print(f"   {name} for {arguments.arch}: {digest(manifest)}, {len(layer)} bytes")


def tree(arguments, moment):
    """The one layer."""
    programs, stored = Path(arguments.programs), io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def folder(path, **kept):
            add(archive, path, None, moment, **kept)

        for path in ["etc", "usr", "usr/local", "usr/local/bin", "usr/share", "usr/share/doc", "usr/share/doc/tally"]:
            folder(path)
        folder("var")
        folder("var/lib")
        # A volume that is mounted there for the first time takes its owner from it.
        folder("var/lib/tally", owner=USER)
        folder("tmp", mode=0o1777)
        add(archive, "etc/passwd", b"nonroot:x:65532:65532:nonroot:/var/lib/tally:/sbin/nologin\n", moment)
        add(archive, "etc/group", b"nonroot:x:65532:\n", moment)
        for program in ["tallyd", "tally"]:
            add(archive, f"usr/local/bin/{program}", (programs / program).read_bytes(), moment, mode=0o755)
        for document in [arguments.license, *arguments.documents]:
            document = Path(document)
            add(archive, f"usr/share/doc/tally/{document.name}", document.read_bytes(), moment)
    return stored.getvalue()


def add(archive, path, content, moment, mode=None, owner=0):
    entry = tarfile.TarInfo(path)
    entry.mtime, entry.uid, entry.gid = moment, owner, owner
    if content is None:
        entry.type, entry.mode = tarfile.DIRTYPE, mode or 0o755
        archive.addfile(entry)
    else:
        entry.size, entry.mode = len(content), mode or 0o644
        archive.addfile(entry, io.BytesIO(content))


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest(content):
    return hashlib.sha256(content).hexdigest()


def blob(content):
    return f"blobs/sha256/{digest(content)}"


def described(media_type, content):
    return {"mediaType": media_type, "digest": f"sha256:{digest(content)}", "size": len(content)}


if __name__ == "__main__":
    main()
