// Package shop sells pieces of a stock: what is tested in shop_test.go.
package shop

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	tally "github.com/tally-db/tally/proto/tally/v1"
)

// An attempt has 2 s, and a call as many attempts as fit into 20 s: a mistake that no attempt can mend is to be seen.
const attemptTime, callTime, pause = 2 * time.Second, 20 * time.Second, 50 * time.Millisecond

// gRPC waits up to 120 s between two connections by default, longer than any fault here lasts.
var connecting = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: 500 * time.Millisecond},
	MinConnectTimeout: attemptTime,
}

// Shop counts what it sells.
type Shop struct {
	counters tally.CountersClient
	hasty    bool
}

// Open makes a shop that asks all nodes of a cluster.
func Open(endpoints string, hasty bool) (*Shop, error) {
	nodes := manual.NewBuilderWithScheme("tally")
	var state resolver.State
	for _, address := range strings.Split(endpoints, ",") {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	nodes.InitialState(state)
	// The name after the slashes becomes the :authority of each request, which must not be empty.
	connection, err := grpc.NewClient("tally:///cluster", grpc.WithResolvers(nodes),
		grpc.WithConnectParams(connecting),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	if err != nil {
		return nil, err
	}
	return &Shop{tally.NewCountersClient(connection), hasty}, nil
}

// Tries until an attempt is answered, or the call's time is over.
func ask[Answer any](attempt func(context.Context) (Answer, error)) (Answer, error) {
	call, over := context.WithTimeout(context.Background(), callTime)
	defer over()
	for {
		this, cancel := context.WithTimeout(call, attemptTime)
		answer, err := attempt(this)
		cancel()
		if err == nil {
			return answer, nil
		}
		select {
		case <-call.Done():
			return answer, fmt.Errorf("not answered within %v: %w", callTime, err)
		case <-time.After(pause):
		}
	}
}

// Sell counts a sale, once for an order.
func (s *Shop) Sell(order string) error {
	_, err := ask(func(attempt context.Context) (*tally.CountersWriteResponse, error) {
		key := order
		if s.hasty {
			// The planted bug: each attempt is another write. An answer that was lost is no write that was not done.
			key = rand.Text()
		}
		options := &tally.WriteOptions{IdempotencyKey: &key}
		return s.counters.Add(attempt, &tally.CountersAddRequest{Name: "sold", Delta: 1, Options: options})
	})
	return err
}

// Sold says how many were sold.
func (s *Shop) Sold() (int64, error) {
	answer, err := ask(func(attempt context.Context) (*tally.CountersGetResponse, error) {
		return s.counters.Get(attempt, &tally.CountersGetRequest{Name: "sold"})
	})
	return answer.GetCounter().GetValue(), err
}
