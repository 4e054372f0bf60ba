// Go's own reverse proxy: reverse_proxy PORT UPSTREAM[,UPSTREAM...]
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

func main() {
	var origins []*url.URL
	for _, text := range strings.Split(os.Args[2], ",") {
		origin, err := url.Parse(text)
		if err != nil {
			log.Fatal(err)
		}
		origins = append(origins, origin)
	}
	connections, err := strconv.Atoi(os.Getenv("BENCH_CONNECTIONS"))
	if err != nil {
		connections = 100
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxConnsPerHost = connections
	transport.MaxIdleConns = 100
	transport.MaxIdleConnsPerHost = 100 // the default of 2 would be another comparison
	var count uint64
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Director: func(request *http.Request) {
			origin := origins[atomic.AddUint64(&count, 1)%uint64(len(origins))]
			request.URL.Scheme = origin.Scheme
			request.URL.Host = origin.Host
			request.Host = origin.Host
		},
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], proxy))
}
