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
//	POST   /slow                            {"factor":3}: each step takes three times as long; 1 ends it
//	GET    /state                           State
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
	mux.HandleFunc("POST /slow", e.adminSlow)
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, e.state()) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write([]byte(e.exposition()))
	})
	return mux
}

// State is what an engine is at, and what it has done since its start.
type State struct {
	Name        string `json:"name"`
	Running     int    `json:"running"`     // sequences in the batch
	Waiting     int    `json:"waiting"`     // sequences in the queue
	Connections int    `json:"connections"` // open

	BusySeconds  float64 `json:"busy_seconds"`  // spent in steps
	BatchSeconds float64 `json:"batch_seconds"` // the same, each step times the share of max-num-seqs it advanced
	QueueSeconds float64 `json:"queue_seconds"` // waited in the queue by Admitted sequences
	Admitted     int     `json:"admitted"`
}

func (e *Engine) state() State {
	s := State{Name: e.opt.Name}
	s.Running, s.Waiting, s.Connections = e.Load()
	e.stats.mu.Lock()
	defer e.stats.mu.Unlock()
	s.BusySeconds, s.BatchSeconds = e.stats.busy, e.stats.batch
	s.QueueSeconds, s.Admitted = e.stats.queue.sum, e.stats.queue.count
	return s
}

func (e *Engine) adminSlow(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Factor float64 `json:"factor"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&in)
	if err != nil || in.Factor <= 0 {
		http.Error(w, "want {\"factor\":3}, above 0", http.StatusBadRequest)
		return
	}
	e.sched.slower(in.Factor)
	w.WriteHeader(http.StatusNoContent)
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
