#!/usr/bin/env bash
# Checks the manifests in seconds, without a cluster: see check.py. What it can't do, it says (SKIPPED).
#
#   deploy/kubernetes/check.sh [TALLYD]
#
#   TALLYD   a program that is asked whether it takes each pod's environment
#
# api-server.sh beside it applies them to a real API server.
set -euo pipefail
tallyd=${1:+$(realpath "$1")}
cd "$(dirname "$0")"

# Schemas of one version of the package, so that a new one comes with a commit.
readonly SCHEMAS=kubernetes-validate==1.37.0
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tally-ci"

skip() { printf '\n***\n*** SKIPPED: %s\n***\n' "$*"; }

render=()
if command -v kubectl >/dev/null; then
    render=(kubectl kustomize)
elif command -v kustomize >/dev/null; then
    render=(kustomize build)
else
    skip "the manifests of Kubernetes: there is neither kubectl nor kustomize"
    exit 0
fi

venv=$CACHE/${SCHEMAS//==/-}
if [[ ! -x $venv/bin/kubernetes-validate ]]; then
    rm -rf "$venv"
    if ! python3 -m venv "$venv" || ! "$venv/bin/pip" install --quiet --disable-pip-version-check "$SCHEMAS"; then
        rm -rf "$venv"
        skip "the manifests of Kubernetes: $SCHEMAS can't be installed"
        exit 0
    fi
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/tally-kubernetes.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
arguments=()
[[ -z $tallyd ]] || arguments+=(--tallyd "$tallyd")

rendered=()
for overlay in three five; do
    "${render[@]}" "overlays/$overlay" >"$scratch/$overlay.yaml"
    rendered+=("$overlay=$scratch/$overlay.yaml")
done
# With the components as an overlay of somebody's own would have them.
mkdir "$scratch/own"
printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' 'namespace: tally' \
    "resources: [$(realpath --relative-to="$scratch/own" overlays/three)]" 'components:' >"$scratch/own/kustomization.yaml"
for component in components/*/; do
    # Of programs that have such a port.
    if [[ $component == */metrics/ && -n $tallyd ]] &&
        ! "$tallyd" serve --help | grep -e --metrics-listen >/dev/null; then
        skip "components/metrics: $tallyd has no metrics"
        continue
    fi
    echo "  - $(realpath --relative-to="$scratch/own" "$component")" >>"$scratch/own/kustomization.yaml"
done
"${render[@]}" "$scratch/own" >"$scratch/own.yaml"
rendered+=("all components=$scratch/own.yaml")

"$venv/bin/python" check.py "${arguments[@]}" "${rendered[@]}"
