#!/usr/bin/env bash
# Plays an incident on a real cluster, watched by a real Prometheus with the rules of deploy/prometheus as they are
# shipped, and prints which alerts came after how long (docs/observability.md, "An incident, played").
#
#   deploy/incident.sh [DIRECTORY] [--picture FILE.svg]     where tally and tallyd are; target/release by default
#
# Needs root, Linux, ip, nft, prometheus and Python 3; the picture of `tally top` needs Python's pyte besides (PYTHON
# names another python3). Everything runs in namespaces of its own (network, mounts, processes), which end with it: no
# process, no mount, no address and no rule of a firewall stays.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[[ $EUID == 0 ]] || { echo "deploy/incident.sh: only root may make namespaces" >&2; exit 2; }
for tool in ip nft prometheus unshare; do
    command -v "$tool" >/dev/null || { echo "deploy/incident.sh: there is no $tool" >&2; exit 2; }
done
work=$(mktemp -d "${TMPDIR:-/tmp}/tally-incident.XXXXXX")
status=0
unshare --net --mount --pid --fork --kill-child --mount-proc \
    "${PYTHON:-python3}" "$here/observe/incident.py" "$work" "$here/.." "$@" || status=$?
if ((status == 0)); then rm -rf "$work"; else echo "logs are in $work" >&2; fi
exit "$status"
