// Command reverseproxy is the gateway that the standard library offers: net/http
// and its httputil.ReverseProxy, set up for streams and nothing else. The bench
// compares others with it.
//
//	reverseproxy -listen 127.0.0.1:8000 -engine 127.0.0.1:9000
package main

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "`address` to listen on")
	engine := flag.String("engine", "127.0.0.1:9000", "`address` of the upstream engine")
	flag.Parse()
	fmt.Fprintln(os.Stderr, "reverseproxy:", http.ListenAndServe(*listen, proxy(*engine)))
	os.Exit(1)
}

// proxy has no timeouts: streams are held open in silence.
func proxy(engine string) http.Handler {
	target := &url.URL{Scheme: "http", Host: engine}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1, // an event leaves when it has arrived
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 1024, // the default keeps 2, and opens one for nearly each request
			DisableCompression:  true, // else answers are asked for in gzip, and unpacked
		},
	}
}
