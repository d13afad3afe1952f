// tallyd chaos --seed 3 --plan lost-answers.plan -- npx vitest run shop.test.mjs
//
// With SHOP=hasty in its environment the shop has a bug, and this finds it.
import { expect, test } from 'vitest'
import { Shop } from './shop.mjs'

test('each order is sold once', { timeout: 60_000 }, async () => {
  const shop = new Shop(process.env.TALLY_ENDPOINTS, process.env.SHOP === 'hasty')
  let orders = 0
  for (const until = Date.now() + 8_000; Date.now() < until;) {
    orders += 1
    await shop.sell(`order-${orders}`)
  }
  expect(await shop.sold()).toBe(orders)
})
