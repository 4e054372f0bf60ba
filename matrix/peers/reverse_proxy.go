// Go's own reverse proxy: reverse_proxy PORT URL-OF-THE-BASE PREFIX SECONDS
package main

import (
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

func main() {
	base, err := url.Parse(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	limit, err := time.ParseDuration(os.Args[4] + "s")
	if err != nil {
		log.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.DialContext = (&net.Dialer{Timeout: limit}).DialContext
	transport.ResponseHeaderTimeout = limit
	proxy := httputil.NewSingleHostReverseProxy(base)
	proxy.Transport = transport
	proxy.FlushInterval = -1
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.StripPrefix(os.Args[3], proxy)))
}
