#!/usr/bin/env bash
# One trace of one write, as a real OpenTelemetry collector gets it: docs/tracing.md. Needs Go and the programs
# (`cargo build`); its ports are PORT (default 21140) and those behind it. Leaves nothing behind but what it built.
#
#   deploy/traces/show.sh            # TALLYD=… OTELCOL=… name programs that are there already
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tallyd=${TALLYD:-$root/target/debug/tallyd}
port=${PORT:-21140}
work=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

otelcol=${OTELCOL:-}
if [[ -z $otelcol ]]; then
    build=${BUILD_DIR:-$root/target/otelcol}
    otelcol=$build/otelcol/otelcol
    if [[ ! -x $otelcol ]]; then
        mkdir -p "$build"
        cp "$here/builder.yaml" "$build/"
        (cd "$build" && go run go.opentelemetry.io/collector/cmd/builder@v0.165.0 --config builder.yaml)
    fi
fi

cat > "$work/collector.yaml" <<YAML
receivers: { otlp: { protocols: { grpc: { endpoint: "127.0.0.1:$port" } } } }
exporters: { debug: { verbosity: detailed, sampling_initial: 1000000 } }
service:
  pipelines: { traces: { receivers: [otlp], exporters: [debug] } }
  telemetry: { metrics: { level: none } }
YAML
"$otelcol" --config "$work/collector.yaml" > "$work/collector.log" 2>&1 &
pids+=($!)

members=$(for id in 1 2 3; do printf '%s=127.0.0.1:%s,' "$id" $((port + 10 + id)); done)
for id in 1 2 3; do
    "$tallyd" serve --node-id "$id" --data-dir "$work/node-$id" --initial-cluster "${members%,}" \
        --client-listen "127.0.0.1:$((port + 20 + id))" --peer-listen "127.0.0.1:$((port + 10 + id))" \
        --metrics-listen "127.0.0.1:$((port + 30 + id))" \
        --traces-otlp-endpoint "http://127.0.0.1:$port" --traces-sample-ratio 0 > "$work/node-$id.log" 2>&1 &
    pids+=($!)
done

# A unary call of one counter, with the caller's trace context, to a node that does not lead: HTTP/2 by curl, which
# sends gRPC's five bytes (not compressed, length) and the message: name "hits", delta 1.
trace=4bf92f3577b34da6a3ce929d0e0e4736
follower=
for _ in $(seq 100); do
    for id in 1 2 3; do
        if curl -sf "http://127.0.0.1:$((port + 30 + id))/metrics" 2>/dev/null | grep -q '^tally_is_leader 0$' &&
            curl -sf "http://127.0.0.1:$((port + 30 + id))/readyz" > /dev/null 2>&1; then
            follower=$id
        fi
    done
    [[ -n $follower ]] && break
    sleep 0.2
done
[[ -n $follower ]] || { echo "no node follows a leader" >&2; cat "$work"/node-*.log >&2; exit 1; }
printf '\x00\x00\x00\x00\x08\x0a\x04hits\x10\x01' > "$work/request"
curl -sf --http2-prior-knowledge -X POST "http://127.0.0.1:$((port + 20 + follower))/tally.v1.Counters/Add" \
    -H 'content-type: application/grpc' -H 'te: trailers' \
    -H "traceparent: 00-$trace-00f067aa0ba902b7-01" --data-binary "@$work/request" -D "$work/head" -o "$work/answer"
grep -i 'grpc-status' "$work/head" | grep -qv '[^0-9]0' && { cat "$work/head" >&2; exit 1; }

for _ in $(seq 50); do
    [[ $(grep -c "Name  *: apply" "$work/collector.log") -ge 3 ]] && break
    sleep 0.2
done
echo "node $follower was asked; the collector got:"
awk -v trace="$trace" '
    /service.instance.id/ { node = $NF; gsub(/[^0-9]/, "", node) }
    /Trace ID/ { mine = ($NF == trace) }
    /Parent ID/ { parent = $NF }
    / ID  *:/ && !/Trace|Parent/ { id = $NF }
    / Name  *:/ { sub(/.* Name  *: /, ""); name = $0 }
    /Start time/ { sub(/.*: /, ""); start = substr($0, 12, 15) }
    /End time/ && mine {
        sub(/.*: /, "")
        printf "%s..%s  node %s  %-16s span %s below %s\n", start, substr($0, 12, 15), node, name, id, parent
    }' "$work/collector.log" | sort
spans=$(grep -c "Trace ID  *: $trace" "$work/collector.log")
echo "$spans spans in trace $trace"
[[ $spans -eq 9 ]]
