// How grpc-go may be told of the nodes: each form, and what comes of it.
//
//	go run ./forms ADDRESS,ADDRESS,ADDRESS
//
// The table in docs/other-languages.md is what this says; it fails where that is not so any more.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	tally "github.com/tally-db/tally/proto/tally/v1"
)

// How many nodes answered twelve reads, or the code of the error.
func nodes(target string, options []grpc.DialOption) string {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	connection, err := grpc.NewClient(target, options...)
	if err != nil {
		return "UNUSABLE"
	}
	defer connection.Close()
	client := tally.NewCountersClient(connection)
	read := &tally.CountersBatchGetRequest{
		Names: []string{"any"}, Read: &tally.ReadOptions{Level: tally.ReadLevel_READ_LEVEL_LOCAL},
	}
	var seen map[uint64]bool
	for range 2 {
		seen = map[uint64]bool{}
		for range 12 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			answer, err := client.BatchGet(ctx, read)
			cancel()
			if err != nil {
				return status.Code(err).String()
			}
			seen[answer.Header.NodeId] = true
		}
		// Until each connection is up, round_robin has fewer to choose from.
		time.Sleep(300 * time.Millisecond)
	}
	return fmt.Sprint(len(seen))
}

func main() {
	list := os.Args[1]
	one := strings.Split(list, ",")[0]
	_, port, _ := strings.Cut(one, ":")
	balanced := grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)
	manually := func() grpc.DialOption {
		nodes := manual.NewBuilderWithScheme("tally")
		var state resolver.State
		for _, address := range strings.Split(list, ",") {
			state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
		}
		nodes.InitialState(state)
		return grpc.WithResolvers(nodes)
	}
	wrong := 0
	for _, form := range []struct {
		target   string
		options  []grpc.DialOption
		what     string
		expected string
	}{
		{one, nil, "", "1"},
		{"dns:///" + one, nil, "", "1"},
		{"dns:///localhost:" + port, []grpc.DialOption{balanced}, "round_robin", "1"},
		{"passthrough:///" + one, nil, "", "1"},
		{"tally:///cluster", []grpc.DialOption{manually()}, "a manual resolver", "1"},
		{"tally:///cluster", []grpc.DialOption{manually(), balanced}, "a manual resolver, round_robin", "3"},
		{"tally:///", []grpc.DialOption{manually(), balanced}, "an empty authority", "Internal"},
		{"ipv4:" + list, nil, "", "Unavailable"},
		{"dns:///" + list, nil, "", "Unavailable"},
	} {
		seen, verdict := nodes(form.target, form.options), "as expected"
		if seen != form.expected {
			verdict = "EXPECTED " + form.expected
			wrong++
		}
		fmt.Println(verdict, form.target, form.what, seen)
	}
	if wrong > 0 {
		fmt.Fprintln(os.Stderr, wrong, "forms differ from docs/other-languages.md")
		os.Exit(1)
	}
}
