// Package shop sells pieces of a stock: what is tested in shop_test.go.
package shop

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	tally "github.com/tally-db/tally/proto/tally/v1"
)

// Shop counts what it sells.
type Shop struct {
	counters tally.CountersClient
	hasty    bool
}

// Open connects to all nodes of a cluster.
func Open(endpoints string, hasty bool) (*Shop, error) {
	nodes := manual.NewBuilderWithScheme("tally")
	var state resolver.State
	for _, address := range strings.Split(endpoints, ",") {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	nodes.InitialState(state)
	connection, err := grpc.NewClient("tally:///", grpc.WithResolvers(nodes),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	if err != nil {
		return nil, err
	}
	return &Shop{tally.NewCountersClient(connection), hasty}, nil
}

// Sell counts a sale, once for an order.
func (s *Shop) Sell(order string) {
	for {
		// The planted bug: each attempt is another write. An answer that was lost is no write that was not done.
		key := order
		if s.hasty {
			key = rand.Text()
		}
		request := &tally.CountersAddRequest{Name: "sold", Delta: 1, Options: &tally.WriteOptions{IdempotencyKey: &key}}
		attempt, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := s.counters.Add(attempt, request)
		cancel()
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Sold says how many were sold.
func (s *Shop) Sold() int64 {
	for {
		attempt, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		answer, err := s.counters.Get(attempt, &tally.CountersGetRequest{Name: "sold"})
		cancel()
		if err == nil {
			return answer.GetCounter().GetValue()
		}
		time.Sleep(50 * time.Millisecond)
	}
}
