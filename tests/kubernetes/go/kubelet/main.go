// Command kubelet stands in for a node: the streaming half of a kubelet, on the very library that container runtimes serve it with.
// A pod's container is a folder, in which commands run as an unprivileged user; its log is the file beside it; its ports are those
// of this host. Nothing here watches the API server: a pod runs when its status says so.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

const (
	idle     = 4 * time.Minute
	creation = 30 * time.Second
	poll     = 20 * time.Millisecond
)

func main() {
	address := flag.String("address", ":10250", "where to listen")
	certificate := flag.String("certificate", "", "the server's certificate")
	key := flag.String("key", "", "its key")
	authority := flag.String("client-ca", "", "the authority of clients; without its certificate nobody is served")
	folder := flag.String("folder", "", "a folder NAMESPACE/POD for each pod, NAMESPACE/POD.log for what it logs")
	user := flag.Uint("user", 65534, "uid and gid of commands")
	flag.Parse()
	pem, err := os.ReadFile(*authority)
	if err != nil {
		log.Fatal(err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		log.Fatalf("%s holds no certificate", *authority)
	}
	node := &node{folder: *folder, user: uint32(*user)}
	server := &http.Server{
		Addr:              *address,
		Handler:           node.routes(),
		ReadHeaderTimeout: creation,
		TLSConfig:         &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients},
		// As the kubelet: an upgraded stream is HTTP/1.1's.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	log.Fatal(server.ListenAndServeTLS(*certificate, *key))
}

type node struct {
	folder string
	user   uint32
}

// routes are those of the kubelet's server that the API server asks for (k8s.io/kubernetes/pkg/kubelet/server).
func (n *node) routes() http.Handler {
	mux := http.NewServeMux()
	for _, uid := range []string{"", "{uid}/"} {
		mux.HandleFunc("/exec/{namespace}/{pod}/"+uid+"{container}", n.exec)
		mux.HandleFunc("/attach/{namespace}/{pod}/"+uid+"{container}", n.attach)
	}
	mux.HandleFunc("/portForward/{namespace}/{pod}", n.portForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", n.portForward)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", n.logs)
	mux.HandleFunc("/run/{namespace}/{pod}/{container}", n.run)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return mux
}

func (n *node) container(request *http.Request) *container {
	folder := filepath.Join(n.folder, request.PathValue("namespace"), request.PathValue("pod"))
	return &container{folder: folder, user: n.user}
}

func (n *node) exec(w http.ResponseWriter, request *http.Request) {
	options, err := remotecommand.NewOptions(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	command := request.URL.Query()["command"]
	remotecommand.ServeExec(w, request, n.container(request), request.PathValue("pod"), "", request.PathValue("container"), command,
		options, idle, creation, remotecommand.SupportedStreamingProtocols)
}

func (n *node) attach(w http.ResponseWriter, request *http.Request) {
	options, err := remotecommand.NewOptions(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(w, request, n.container(request), request.PathValue("pod"), "", request.PathValue("container"),
		options, idle, creation, remotecommand.SupportedStreamingProtocols)
}

func (n *node) portForward(w http.ResponseWriter, request *http.Request) {
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, request, n.container(request), request.PathValue("pod"), "", options, idle, creation,
		portforward.SupportedProtocols)
}

// run is the kubelet's oldest door to a command: what comes back is an answer without an upgrade (nodes/NAME/proxy/run/…).
func (n *node) run(w http.ResponseWriter, request *http.Request) {
	command := strings.Fields(request.FormValue("cmd"))
	output := nopCloser{w}
	if err := n.container(request).command(request.Context(), command, nil, output, output); err != nil {
		fmt.Fprintln(w, err)
	}
}

// logs serves what the container wrote: tailLines, limitBytes and follow are understood.
func (n *node) logs(w http.ResponseWriter, request *http.Request) {
	file, err := os.Open(n.container(request).folder + ".log")
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer file.Close()
	w.Header().Set("Content-Type", "text/plain")
	if tail, err := strconv.Atoi(request.FormValue("tailLines")); err == nil {
		text, _ := io.ReadAll(file)
		lines := strings.SplitAfter(string(text), "\n")
		_, _ = io.WriteString(w, strings.Join(lines[max(0, len(lines)-tail-1):], ""))
	} else {
		limit, err := strconv.ParseInt(request.FormValue("limitBytes"), 10, 64)
		if err != nil {
			limit = 1 << 62
		}
		_, _ = io.Copy(w, io.LimitReader(file, limit))
	}
	follow := request.FormValue("follow") == "true"
	for flush := w.(http.Flusher); follow; {
		flush.Flush()
		select {
		case <-request.Context().Done():
			return
		case <-time.After(poll):
			_, _ = io.Copy(w, file)
		}
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
