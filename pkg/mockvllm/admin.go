package mockvllm

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// Admin is the handler of the engine's second port:
//
//	GET    /ledger?since=SEQ&tag=T&state=S  rows as a JSON array, oldest first
//	DELETE /ledger                          forget all rows
//	POST   /fault                           {"fault":"503","count":2,"for":"2s","path":"/v1/models"}
//	DELETE /fault                           no more faults
//	GET    /faults                          every fault's name and argument
//	GET    /state                           {"name":"a","running":0,"waiting":0,"connections":0}
//	GET    /metrics                         as on the first port
func (e *Engine) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ledger", e.adminLedger)
	mux.HandleFunc("DELETE /ledger", func(w http.ResponseWriter, _ *http.Request) {
		e.ledger.clear()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /fault", e.adminFault)
	mux.HandleFunc("DELETE /fault", func(w http.ResponseWriter, _ *http.Request) {
		e.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, faultNames) })
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		running, waiting, conns := e.Load()
		writeJSON(w, map[string]any{"name": e.opt.Name, "running": running, "waiting": waiting, "connections": conns})
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write([]byte(e.exposition()))
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}

func (e *Engine) adminLedger(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, _ := strconv.ParseUint(q.Get("since"), 10, 64)
	rows := []Entry{}
	for _, row := range e.Ledger() {
		if row.Seq <= since || q.Has("tag") && row.Tag != q.Get("tag") || q.Has("state") && row.State != q.Get("state") {
			continue
		}
		rows = append(rows, row)
	}
	writeJSON(w, rows)
}

func (e *Engine) adminFault(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Fault string `json:"fault"`
		Count int    `json:"count"`
		For   string `json:"for"`
		Path  string `json:"path"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&in)
	rule := FaultRule{Fault: in.Fault, Count: in.Count, Path: in.Path}
	if err == nil && in.For != "" {
		rule.For, err = time.ParseDuration(in.For)
	}
	if err == nil {
		err = e.Fault(rule)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// FaultNames tells every fault an engine knows and what its argument means.
func FaultNames() map[string]string {
	out := make(map[string]string, len(faultNames))
	maps.Copy(out, faultNames)
	return out
}
