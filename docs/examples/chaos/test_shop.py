"""tallyd chaos --seed 3 --plan lost-answers.plan -- pytest test_shop.py

With SHOP=hasty in its environment the shop has a bug, and this finds it.
"""

import os
import time

from shop import Shop


def test_each_order_is_sold_once():
    shop = Shop(os.environ["TALLY_ENDPOINTS"], hasty=os.environ.get("SHOP") == "hasty")
    orders = 0
    until = time.monotonic() + 8
    while time.monotonic() < until:
        orders += 1
        shop.sell(f"order-{orders}")
    assert shop.sold() == orders
