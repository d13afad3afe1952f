#!/usr/bin/env bash
# Applies the manifests to a real Kubernetes API server over etcd, with the real controllers and scheduler, and
# machines that kwok plays. Not part of .ci/run: to build Kubernetes takes minutes, once.
#
#   deploy/kubernetes/api-server.sh --tally TALLY [--image NAME]
#
#   --tally TALLY   the command line, which makes the certificates
#   --image NAME    an image that Docker has: the pods that the controller made are then run as containers with what
#                   their specification says (pods.py), as here is no kubelet, and become a cluster
#
# Needs Go, kubectl, jq and openssl. The programs are built from their Go modules (api-server/go.mod), and kept in the
# cache.
# It uses ports from PORT (21400) on, stops what it started, and leaves nothing else.
set -euo pipefail
cd "$(dirname "$0")"

readonly KWOK=v0.7.0 CERT_MANAGER=v1.19.1
readonly PORT=${PORT:-21400}
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/tally-ci"
readonly BIN=${KUBERNETES_BIN:-$CACHE/kubernetes}

tally=
image=
while (($#)); do
    case $1 in
        --tally) tally=$(realpath "${2:?}"); shift 2 ;;
        --image) image=${2:?}; shift 2 ;;
        *) echo "usage: deploy/kubernetes/api-server.sh --tally TALLY [--image NAME]" >&2; exit 2 ;;
    esac
done
[[ -n $tally ]] || { echo "--tally is missing" >&2; exit 2; }

scratch=$(mktemp -d "${TMPDIR:-/tmp}/tally-kubernetes.XXXXXX")
started=()

say() { printf '   %s\n' "$*"; }
title() { printf '\n-- %s\n' "$*"; }
skip() { printf '\n***\n*** SKIPPED: %s\n***\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
expect() { [[ "$2" == "$3" ]] || fail "$1 is '$2', expected '$3'"; }

within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.5
    done
}

clean_up() {
    local status=$? at
    set +e
    [[ -z $image ]] || ./pods.py stop "$scratch/pods"
    # The other way round: what calls goes before what it calls.
    for ((at = ${#started[@]} - 1; at >= 0; at--)); do
        kill "${started[at]}" 2>/dev/null && wait "${started[at]}" 2>/dev/null
    done
    if ((status == 0)); then
        rm -rf "$scratch"
        printf '\ndeploy/kubernetes/api-server.sh: passed in %d s\n' "$SECONDS"
    else
        echo "logs are in $scratch" >&2
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'printf "FAILED: line %s: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR
trap 'exit 130' INT
trap 'exit 143' TERM

# --- The programs -----------------------------------------------------------------------------

programs() {
    title "programs"
    local program kubernetes
    kubernetes=$(sed -n 's,^\tk8s.io/kubernetes ,,p' api-server/go.mod)
    mkdir -p "$BIN"
    for program in etcd kube-apiserver kube-controller-manager kube-scheduler; do
        [[ -x $BIN/$program ]] && continue
        say "building $program (some minutes)"
        # Its version is set by whoever links it.
        (cd api-server && go build -trimpath -o "$BIN/$program" \
            -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes" "./cmd/$program")
    done
    [[ -x $BIN/kwok ]] || GOBIN=$BIN go install "sigs.k8s.io/kwok/cmd/kwok@$KWOK"
    say "Kubernetes $kubernetes, etcd $(sed -n 's,^\tgo.etcd.io/etcd/server/v3 ,,p' api-server/go.mod), kwok $KWOK"
}

start() {
    local name=$1
    shift
    "$@" >"$scratch/$name.log" 2>&1 &
    started+=($!)
}

kube() { kubectl --kubeconfig "$scratch/kubeconfig" "$@"; }

control_plane() {
    title "the control plane"
    openssl genrsa -out "$scratch/service-accounts.key" 2048 2>/dev/null
    local token
    token=$(openssl rand -hex 16)
    echo "$token,root,root,system:masters" >"$scratch/tokens"
    cat >"$scratch/kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "https://127.0.0.1:$((PORT + 2))", insecure-skip-tls-verify: true}}]
users: [{name: root, user: {token: "$token"}}]
contexts: [{name: here, context: {cluster: here, user: root, namespace: tally}}]
current-context: here
END
    start etcd "$BIN/etcd" --data-dir "$scratch/etcd" --client "http://127.0.0.1:$PORT" \
        --peer "http://127.0.0.1:$((PORT + 1))"
    start kube-apiserver "$BIN/kube-apiserver" --etcd-servers "http://127.0.0.1:$PORT" --secure-port $((PORT + 2)) \
        --bind-address 127.0.0.1 --cert-dir "$scratch/api-server" --token-auth-file "$scratch/tokens" \
        --authorization-mode Node,RBAC --service-cluster-ip-range 10.0.0.0/24 --allow-privileged \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file "$scratch/service-accounts.key" \
        --service-account-signing-key-file "$scratch/service-accounts.key"
    within 90 kube get --raw /readyz || fail "the API server does not get ready"
    # Those that have to do with this: no network, no cloud, no machines.
    local controllers=statefulset-controller,disruption-controller,endpointslice-controller,namespace-controller
    controllers+=,serviceaccount-controller,persistentvolume-binder-controller,garbage-collector-controller
    controllers+=,persistentvolumeclaim-protection-controller,node-lifecycle-controller
    controllers+=,root-ca-certificate-publisher-controller,pod-garbage-collector-controller
    start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig "$scratch/kubeconfig" \
        --secure-port $((PORT + 3)) --bind-address 127.0.0.1 --cert-dir "$scratch/controllers" --leader-elect=false \
        --controllers "$controllers" --service-account-private-key-file "$scratch/service-accounts.key"
    start kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$scratch/kubeconfig" --secure-port $((PORT + 4)) \
        --bind-address 127.0.0.1 --cert-dir "$scratch/scheduler" --leader-elect=false
    start kwok "$BIN/kwok" --kubeconfig "$scratch/kubeconfig" --manage-all-nodes \
        --server-address "127.0.0.1:$((PORT + 5))"
    say "API server, controllers, scheduler and kwok run"
}

# Three machines in three zones, and a volume for each of five nodes.
machines() {
    local number
    for number in 1 2 3; do
        kube create -f - >/dev/null <<END
apiVersion: v1
kind: Node
metadata:
  name: machine-$number
  labels: {kubernetes.io/hostname: machine-$number, topology.kubernetes.io/zone: zone-$number}
status:
  allocatable: {cpu: "4", memory: 8Gi, pods: "20"}
  capacity: {cpu: "4", memory: 8Gi, pods: "20"}
END
    done
    kube create -f - >/dev/null <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: by-hand
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
END
    for number in 1 2 3 4 5; do
        kube create -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata:
  name: volume-$number
spec:
  accessModes: [ReadWriteOncePod]
  capacity: {storage: 20Gi}
  storageClassName: by-hand
  csi: {driver: by-hand.example, volumeHandle: volume-$number}
END
    done
}

# --- What is tried ----------------------------------------------------------------------------

# As docs/deployment.md has it, "Certificates".
secrets() {
    local number certificates=$scratch/certificates
    [[ -d $certificates ]] || "$tally" cert init --dir "$certificates" >/dev/null
    for number in $(seq "$1"); do
        [[ ! -e $certificates/node-$number.crt ]] || continue
        local name=tally-$number.tally-peers
        "$tally" cert node "$number" --dir "$certificates" \
            --hosts "$name,$name.tally.svc,$name.tally.svc.cluster.local,tally,tally.tally.svc" >/dev/null
        kube create secret generic "tally-node-$number" --from-file=tls.crt="$certificates/node-$number.crt" \
            --from-file=tls.key="$certificates/node-$number.key" --from-file=ca.crt="$certificates/ca.crt" >/dev/null
    done
}

dry_runs() {
    title "server-side dry runs, with strict validation"
    kube create namespace tally >/dev/null
    local overlay component
    for overlay in three five; do
        kube apply --dry-run=server --validate=strict -k "overlays/$overlay" >"$scratch/$overlay.said" 2>&1 ||
            { cat "$scratch/$overlay.said"; fail "overlays/$overlay is refused"; }
        if grep -i warning "$scratch/$overlay.said" | grep -v last-applied; then fail "overlays/$overlay is warned of"; fi
        say "overlays/$overlay: $(grep -c 'server dry run' "$scratch/$overlay.said") objects"
    done
    # That a mistake would be seen.
    kubectl kustomize overlays/three | sed 's/podManagementPolicy:/podManagementPolicies:/' >"$scratch/wrong.yaml"
    if kube apply --dry-run=server --validate=strict -f "$scratch/wrong.yaml" >/dev/null 2>&1; then
        fail "a misspelt field is taken"
    fi

    local module
    if module=$(go mod download -json "github.com/cert-manager/cert-manager@$CERT_MANAGER" 2>/dev/null | jq -re .Dir); then
        local crds=$scratch/crds
        mkdir "$crds"
        cp "$module"/deploy/crds/*cert-manager.io_{certificates,issuers}.yaml "$crds" ||
            { skip "cert-manager's CRDs"; return; }
        chmod -R u+w "$crds"
        kube apply --server-side -f "$crds" >/dev/null
        within 20 kube get certificates.cert-manager.io || fail "cert-manager's kinds do not come up"
        mkdir "$scratch/own"
        printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' 'namespace: tally' \
            "resources: [$(realpath --relative-to="$scratch/own" overlays/three)]" 'components:' \
            >"$scratch/own/kustomization.yaml"
        for component in components/*/; do
            echo "  - $(realpath --relative-to="$scratch/own" "$component")" >>"$scratch/own/kustomization.yaml"
        done
        kube apply --dry-run=server --validate=strict -k "$scratch/own" >"$scratch/own.said" 2>&1 ||
            { cat "$scratch/own.said"; fail "the components are refused"; }
        say "with cert-manager $CERT_MANAGER's kinds: $(grep -c 'server dry run' "$scratch/own.said") objects"
    else
        skip "cert-manager's CRDs: its module is not to be had"
    fi
}

pods_are() { [[ $(kube get pods -l app.kubernetes.io/name=tally -o json | jq "$1") == "$2" ]]; }
readonly READY='[.items[] | select(any(.status.conditions[]?; .type == "Ready" and .status == "True"))] | length'

three_pods() {
    title "overlays/three, applied"
    kube apply --validate=strict -k overlays/three >/dev/null 2>&1
    secrets 3
    within 60 pods_are "$READY" 3 || { kube get pods -o wide; kube get events; fail "there are no three pods"; }
    expect "the pods' node ids" \
        "$(kube get pods -o json | jq -r '[.items[].metadata.labels["apps.kubernetes.io/pod-index"]] | sort | join(" ")')" "1 2 3"
    expect "how many machines they are on" "$(kube get pods -o json | jq '[.items[].spec.nodeName] | unique | length')" 3
    expect "claims" "$(kube get pvc -o json | jq '[.items[] | select(.status.phase == "Bound")] | length')" 3
    kube rollout status statefulset/tally --timeout 60s | tail -n 1 | sed "s/^/   /"
    kube get pods -o wide | cut -c 1-90

    # The budget: one may go, and the next only when it is back. Nobody plays the machines meanwhile, so that it isn't.
    evict() {
        kube create --raw "/api/v1/namespaces/tally/pods/$1/eviction" -f - 2>&1 <<END
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "$1", "namespace": "tally"}}
END
    }
    allowed() { kube get pdb tally -o json | jq .status.disruptionsAllowed; }
    one_is_allowed() { [[ $(allowed) == 1 ]]; }
    within 30 one_is_allowed || fail "no disruption is allowed: $(allowed)"
    local kwok=${started[-1]}
    kill -STOP "$kwok"
    evict tally-1 >/dev/null || fail "the first eviction is refused"
    local said
    said=$(evict tally-2) && { kill -CONT "$kwok"; fail "a second node may be evicted"; }
    kill -CONT "$kwok"
    [[ $said == *"disruption budget"* ]] || fail "the second eviction says $said"
    say "the second eviction at once: $said"
    within 60 pods_are "$READY" 3 || fail "the evicted pod does not come back"
    within 30 one_is_allowed || fail "the budget is not given back"

    # A fourth node finds no machine of its own.
    kube scale statefulset tally --replicas 4 >/dev/null
    fourth() { kube get pod tally-4 -o json | jq -e '.status.conditions[]? | select(.reason == "Unschedulable")'; }
    within 30 fourth || fail "a second node is put on a machine"
    say "a fourth: $(fourth | jq -r .message | cut -c 1-100)"
    kube scale statefulset tally --replicas 3 >/dev/null
    gone() { ! kube get pod tally-4; }
    within 60 gone || fail "tally-4 does not go"

    # The namespace refuses what could do more.
    if kube run root --image=tally --dry-run=server >/dev/null 2>&1; then fail "a pod that is root is taken"; fi
    say "a pod without the restrictions is refused by the namespace"
    endpoints() {
        kube get endpointslices -l "kubernetes.io/service-name=$1" -o json |
            jq '[.items[].endpoints[]?.addresses[]] | unique | length'
    }
    three_endpoints() { [[ $(endpoints tally) == 3 && $(endpoints tally-peers) == 3 ]]; }
    within 30 three_endpoints || fail "the services have $(endpoints tally) and $(endpoints tally-peers) endpoints"
    say "both services lead to the three pods"
}

# The kubelet's part, as far as a node can tell.
pods_run() {
    title "the pods as containers"
    [[ -n $image ]] || { skip "running the pods: no --image was named"; return; }
    kube get pods,secrets,configmaps -o json >"$scratch/objects.json"
    ./pods.py start "$scratch/objects.json" "$scratch/pods" "$image"
    ./pods.py probe "$scratch/pods" startupProbe 60
    ./pods.py probe "$scratch/pods" readinessProbe 60
    ./pods.py probe "$scratch/pods" livenessProbe 5
    # docs/deployment.md, "The first token".
    local pod first token
    for pod in tally-1 tally-2 tally-3; do
        in_pod() { ./pods.py run "$scratch/pods" "$pod" /usr/local/bin/tally "$@"; }
        if token=$(in_pod --token-file /var/lib/tally/admin-token auth token create admin --label me 2>/dev/null); then
            first=$pod
            break
        fi
    done
    [[ -n ${first:-} ]] || fail "no pod has the first token"
    say "$first has the first token"
    export TALLY_TOKEN=$token
    with_token() { ./pods.py run "$scratch/pods" "$pod" --env TALLY_TOKEN /usr/local/bin/tally "$@"; }
    expect "an add" "$(with_token counter add seen 1)" 1
    for pod in tally-1 tally-2 tally-3; do expect "the counter, asked at $pod" "$(with_token counter get seen)" 1; done
    if in_pod counter get seen >/dev/null 2>&1; then fail "somebody without a token reads"; fi
    with_token status
}

# --- All of it --------------------------------------------------------------------------------

for program in go kubectl openssl jq; do
    command -v "$program" >/dev/null || fail "there is no $program"
done
programs
control_plane
dry_runs
machines
three_pods
pods_run
