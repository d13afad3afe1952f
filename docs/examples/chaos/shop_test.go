package shop

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// tallyd chaos --seed 3 --plan lost-answers.plan -- go test -count=1 ./shop
//
// With SHOP=hasty in its environment the shop has a bug, and this finds it.
func TestEachOrderIsSoldOnce(t *testing.T) {
	shop, err := Open(os.Getenv("TALLY_ENDPOINTS"), os.Getenv("SHOP") == "hasty")
	if err != nil {
		t.Fatal(err)
	}
	orders := int64(0)
	for until := time.Now().Add(8 * time.Second); time.Now().Before(until); {
		orders++
		if err := shop.Sell(fmt.Sprint("order-", orders)); err != nil {
			t.Fatalf("order %d: %v", orders, err)
		}
	}
	sold, err := shop.Sold()
	if err != nil {
		t.Fatal(err)
	}
	if sold != orders {
		t.Fatalf("%d orders, and %d were sold", orders, sold)
	}
}
