// One etcd, from its module, for as long as nobody stops it.
package main

import (
	"flag"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	directory := flag.String("data-dir", "", "where it stores")
	client := flag.String("client", "http://127.0.0.1:2379", "where the API server finds it")
	peer := flag.String("peer", "http://127.0.0.1:2380", "a port that nobody uses")
	flag.Parse()
	address := func(text string) []url.URL {
		parsed, err := url.Parse(text)
		if err != nil {
			log.Fatal(err)
		}
		return []url.URL{*parsed}
	}
	config := embed.NewConfig()
	config.Dir = *directory
	config.LogLevel = "warn"
	config.ListenClientUrls, config.AdvertiseClientUrls = address(*client), address(*client)
	config.ListenPeerUrls, config.AdvertisePeerUrls = address(*peer), address(*peer)
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		log.Fatal(err)
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-asked:
		etcd.Close()
	case err := <-etcd.Err():
		log.Fatal(err)
	}
}
