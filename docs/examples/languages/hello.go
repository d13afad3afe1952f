// Counts from Go:  go run . [ADDRESS,ADDRESS,...] [TIMES]. docs/other-languages.md has the commands before that.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	tally "github.com/tally-db/tally/proto/tally/v1"
)

// Refused says in Reason why, for programs, and in Outcome what became of the write, over all attempts.
type Refused struct {
	Reason, Outcome string
	Last            error
}

func (r *Refused) Error() string { return r.Outcome + ", " + r.Reason + ": " + r.Last.Error() }
func (r *Refused) Unwrap() error { return r.Last }

// What a node said; nothing if no node said this, e.g. the connection broke.
func details(err error) (reason string, outcome *tally.WriteOutcome, wait time.Duration) {
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.RetryInfo:
			wait = detail.RetryDelay.AsDuration()
		case *tally.WriteOutcome:
			outcome = detail
		}
	}
	return
}

// Sends the same request under the same key until the cluster has decided, so that it counts once.
func add(ctx context.Context, client tally.CountersClient, request *tally.CountersAddRequest, key string,
) (*tally.CountersWriteResponse, error) {
	request.Options = &tally.WriteOptions{IdempotencyKey: &key}
	for unknown := false; ; {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		answer, err := client.Add(attempt, request)
		cancel()
		if err == nil {
			return answer, nil
		}
		reason, outcome, wait := details(err)
		// UNKNOWN sticks until it is decided.
		unknown = !outcome.GetDecidedInApply() && (unknown || outcome.GetOutcome() != tally.Outcome_OUTCOME_NOT_APPLIED)
		code := status.Code(err)
		retry := code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.ResourceExhausted ||
			reason == "" || outcome.GetOutcome() == tally.Outcome_OUTCOME_UNKNOWN
		if retry && reason != "DEDUP_TABLE_FULL" {
			select {
			case <-time.After(max(wait, 100*time.Millisecond)):
				continue
			case <-ctx.Done():
			}
		}
		refused := &Refused{reason, "NOT_APPLIED", err}
		if unknown {
			refused.Outcome = "UNKNOWN"
		}
		return nil, refused
	}
}

func main() {
	addresses, times := "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403", 1
	if len(os.Args) > 1 {
		addresses = os.Args[1]
	}
	if len(os.Args) > 2 {
		times, _ = strconv.Atoi(os.Args[2])
	}
	nodes := manual.NewBuilderWithScheme("tally")
	var state resolver.State
	for _, address := range strings.Split(addresses, ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	nodes.InitialState(state)
	connection, err := grpc.NewClient("tally:///cluster", grpc.WithResolvers(nodes),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	defer connection.Close()
	client := tally.NewCountersClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var answer *tally.CountersWriteResponse
	for range times {
		answer, err = add(ctx, client, &tally.CountersAddRequest{Name: "hits", Delta: 1}, rand.Text())
		must(err)
	}
	fmt.Println("hits", answer.Change.Value)
	order := rand.Text()
	big := &tally.CountersAddRequest{Name: "big/" + order, Delta: 1<<53 + 1}
	first, err := add(ctx, client, big, order)
	must(err)
	same, err := add(ctx, client, big, order)
	must(err)
	replayed := "NEW"
	if same.Write.Replayed && !first.Write.Replayed {
		replayed = "replayed"
	}
	fmt.Println("big", same.Change.Value, replayed)
	floor := int64(0)
	empty := &tally.CountersAddRequest{Name: "empty", Delta: -1, Bounds: &tally.Bounds{Floor: &floor}}
	var refused *Refused
	if _, err = add(ctx, client, empty, rand.Text()); errors.As(err, &refused) {
		fmt.Println("refused", refused.Reason, refused.Outcome)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
