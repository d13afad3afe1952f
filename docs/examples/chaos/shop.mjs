// A shop that sells pieces of a stock: what is tested in shop.test.mjs.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

const includeDirs = [process.env.PROTO_DIR ?? 'proto/proto']
const { tally } = grpc.loadPackageDefinition(
  loader.loadSync('tally/v1/counters.proto', { includeDirs, longs: Number, defaults: true }))

export class Shop {
  constructor(endpoints, hasty) {
    const options = { 'grpc.service_config': '{"loadBalancingConfig":[{"round_robin":{}}]}' }
    this.counters = new tally.v1.Counters(`ipv4:${endpoints}`, grpc.credentials.createInsecure(), options)
    this.hasty = hasty
  }

  async ask(method, request) {
    for (;;) {
      try {
        return await new Promise((answered, refused) => this.counters[method](
          request(), { deadline: Date.now() + 2000 }, (error, answer) => error ? refused(error) : answered(answer)))
      } catch {
        await sleep(50)
      }
    }
  }

  // Counts a sale, once for an order.
  sell(order) {
    return this.ask('Add', () => {
      // The planted bug: each attempt is another write. An answer that was lost is no write that was not done.
      const idempotencyKey = this.hasty ? randomUUID() : order
      return { name: 'sold', delta: 1, options: { idempotencyKey } }
    })
  }

  async sold() {
    return (await this.ask('Get', () => ({ name: 'sold' }))).counter.value
  }
}
