// How grpc-js may be told of the nodes: each form, and what comes of it.
//
//     PROTO_DIR=proto/proto node forms.mjs ADDRESS,ADDRESS,ADDRESS
//
// The table in docs/other-languages.md is what this says; it fails where that is not so any more.
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

const includeDirs = [process.env.PROTO_DIR ?? 'proto/proto']
const { tally } = grpc.loadPackageDefinition(
  loader.loadSync('tally/v1/counters.proto', { includeDirs, longs: String, enums: String }))

const list = process.argv[2]
const [one] = list.split(',')
const [, port] = one.split(':')
const balanced = { 'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }) }

// How many nodes answered twelve reads, or the code of the error.
async function nodes(target, options) {
  const client = new tally.v1.Counters(target, grpc.credentials.createInsecure(), options)
  const read = { names: ['any'], read: { level: 'READ_LEVEL_LOCAL' } }
  const ask = () => new Promise((answered, refused) =>
    client.batchGet(read, { deadline: Date.now() + 5000 }, (error, answer) => error ? refused(error) : answered(answer)))
  try {
    // Until each connection is up, round_robin has fewer to choose from.
    for (let i = 0; i < 12; i++) await ask()
    await new Promise(resolve => setTimeout(resolve, 300))
    const seen = new Set()
    for (let i = 0; i < 12; i++) seen.add((await ask()).header.nodeId)
    return seen.size
  } catch (error) {
    return grpc.status[error.code]
  } finally {
    client.close()
  }
}

let wrong = 0
for (const [target, options, expected] of [
  [one, {}, 1],
  [`dns:///${one}`, {}, 1],
  [`dns:///localhost:${port}`, balanced, 1],
  [`ipv4:${one}`, {}, 1],
  [`ipv4:${list}`, {}, 1],
  [`ipv4:${list}`, balanced, 3],
  [`dns:///${list}`, {}, 'UNAVAILABLE'],
]) {
  const seen = await nodes(target, options)
  wrong += seen !== expected
  console.log(seen === expected ? 'as expected' : `EXPECTED ${expected}`, target, Object.keys(options).join(), seen)
}
if (wrong) {
  console.error(`${wrong} forms differ from docs/other-languages.md`)
  process.exit(1)
}
