// Counts from Node:  PROTO_DIR=proto/proto node hello.mjs [ADDRESS,ADDRESS,...] [TIMES]
//
//     npm install @grpc/grpc-js @grpc/proto-loader protobufjs
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'
import protobuf from 'protobufjs'

const includeDirs = [process.env.PROTO_DIR ?? 'proto/proto']
// Numbers of 64 bits as text: a double holds 53. BigInt(text) counts with them.
const options = { includeDirs, longs: String, enums: String, defaults: true }
const { tally } = grpc.loadPackageDefinition(loader.loadSync('tally/v1/counters.proto', options))

// What is in `grpc-status-details-bin`: Google's Status, and of its details those that are read here.
const types = new protobuf.Root()
types.resolvePath = (_, file) => `${includeDirs[0]}/${file}`
types.loadSync('tally/v1/errors.proto')
protobuf.parse(`syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Delay { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Delay retry_delay = 1; }`, types)

function details(error) {
  const bytes = error.metadata?.get('grpc-status-details-bin')[0]
  const found = {} // stays empty if no node said this, e.g. the connection broke
  for (const { typeUrl, value } of bytes ? types.lookupType('google.rpc.Status').decode(bytes).details : []) {
    const name = typeUrl.split('/').pop()
    if (!['google.rpc.ErrorInfo', 'google.rpc.RetryInfo', 'tally.v1.WriteOutcome'].includes(name)) continue
    const type = types.lookupType(name)
    found[name.split('.').pop()] = type.toObject(type.decode(value), { enums: String, longs: Number, defaults: true })
  }
  const { seconds = 0, nanos = 0 } = found.RetryInfo?.retryDelay ?? {}
  return { reason: found.ErrorInfo?.reason, outcome: found.WriteOutcome, wait: seconds * 1000 + nanos / 1e6 }
}

// Sends the same request under the same key until the cluster has decided, so that it counts once.
async function add(client, request, key, milliseconds = 20_000) {
  const until = Date.now() + milliseconds
  const { UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED } = grpc.status
  for (let unknown = false; ;) {
    try {
      return await new Promise((answered, refused) => client.Add(
        { ...request, options: { idempotencyKey: key } }, { deadline: Date.now() + 2000 },
        (error, answer) => error ? refused(error) : answered(answer)))
    } catch (error) {
      const { reason, outcome, wait } = details(error)
      // UNKNOWN sticks until it is decided.
      unknown = !outcome?.decidedInApply && (unknown || outcome?.outcome !== 'OUTCOME_NOT_APPLIED')
      const retry = [UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED].includes(error.code)
        || !reason || outcome?.outcome === 'OUTCOME_UNKNOWN'
      if (!retry || reason === 'DEDUP_TABLE_FULL' || Date.now() + wait > until) {
        throw Object.assign(error, { reason, outcome: unknown ? 'UNKNOWN' : 'NOT_APPLIED' })
      }
      await sleep(Math.max(wait, 100))
    }
  }
}

const [addresses = '127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403', times = '1'] = process.argv.slice(2)
const balanced = { 'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }) }
const client = new tally.v1.Counters(`ipv4:${addresses}`, grpc.credentials.createInsecure(), balanced)
let answer
for (let i = 0; i < Number(times); i++) answer = await add(client, { name: 'hits', delta: 1 }, randomUUID())
console.log('hits', answer.change.value)
const order = randomUUID()
const big = { name: `big/${order}`, delta: String(2n ** 53n + 1n) }
const [first, same] = [await add(client, big, order), await add(client, big, order)]
console.log('big', same.change.value, same.write.replayed && !first.write.replayed ? 'replayed' : 'NEW')
await add(client, { name: 'empty', delta: -1, bounds: { floor: 0 } }, randomUUID())
  .catch(error => console.log('refused', error.reason, error.outcome))
client.close()
