// Command receiver is the least that a billing system has to do with the events of
// LLMProxy's usage_hook: check who sent them, and count each once, however often it
// comes. It needs nothing but Go's standard library.
package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9100", "`address` to listen on")
	secret := flag.String("secret", "hook.secret", "`file` with usage_hook.secret: whsec_ and base64")
	ledger := flag.String("ledger", "usage.jsonl", "`file` that keeps the events, one a line")
	flag.Parse()
	r, err := open(*secret, *ledger)
	if err != nil {
		log.Fatal(err)
	}
	server := http.Server{Addr: *listen, Handler: r, ReadTimeout: 10 * time.Second}
	log.Printf("ready: %d events are known, http://%s takes more", len(r.known), *listen)
	log.Fatal(server.ListenAndServe())
}

// receiver keeps events in a file and knows their ids. In a database the ids are a
// unique index, and what a customer owes changes in the transaction that inserts one.
type receiver struct {
	key []byte

	mu    sync.Mutex
	file  *os.File
	size  int64 // of the whole lines
	known map[string]bool
}

func open(secret, ledger string) (*receiver, error) {
	text, err := os.ReadFile(secret)
	if err != nil {
		return nil, err
	}
	r := &receiver{known: map[string]bool{}}
	r.key, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(text)), "whsec_"))
	if err != nil || len(r.key) < 16 {
		return nil, fmt.Errorf("%s does not hold whsec_ and the base64 of 16 bytes or more", secret)
	}
	if r.file, err = os.OpenFile(ledger, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	for lines := bufio.NewReader(r.file); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return r, nil // a line without an end was never answered with 2xx: it comes again
		}
		var e event
		if err = errors.Join(err, json.Unmarshal(line, &e)); err != nil {
			return nil, fmt.Errorf("cannot read %s at byte %d: %w", ledger, r.size, err)
		}
		r.known[e.ID] = true
		r.size += int64(len(line))
	}
}

// event is what is looked at of a CloudEvent.
type event struct {
	ID   string
	Data struct {
		KeyID      string `json:"key_id"`
		Model      string
		Outcome    string
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	}
}

var errNoEvents = errors.New("not a batch of CloudEvents")

// ServeHTTP answers by what is to happen next: 2xx is "I have them", 401 and 5xx are
// "again later", 400 is "never again". So a wrong signature is not 400.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	if err := r.verify(req.Header, body); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	switch err := r.add(body); {
	case errors.Is(err, errNoEvents):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// verify checks a signature as Standard Webhooks 1.0 describes it.
func (r *receiver) verify(h http.Header, body []byte) error {
	id, at := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return errors.New("the timestamp is not of now: somebody repeats an old request, or a clock is wrong")
	}
	mac := hmac.New(sha256.New, r.key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	want := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for signature := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(signature), want) {
			return nil
		}
	}
	return errors.New("the signature is wrong")
}

// add keeps the events of a batch that are not known yet. When it returns nil they are
// on the disk.
func (r *receiver) add(body []byte) error {
	var batch []json.RawMessage
	if err := json.Unmarshal(body, &batch); err != nil {
		return errNoEvents
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines bytes.Buffer
	added := map[string]event{}
	for _, raw := range batch {
		var e event
		if err := json.Unmarshal(raw, &e); err != nil || e.ID == "" {
			return errNoEvents
		}
		if _, twice := added[e.ID]; twice || r.known[e.ID] {
			continue
		}
		added[e.ID] = e
		_ = json.Compact(&lines, raw) // it is JSON
		lines.WriteByte('\n')
	}
	err := r.file.Truncate(r.size) // what a full disk left of the batch before
	if err == nil {
		_, err = r.file.WriteAt(lines.Bytes(), r.size)
	}
	if err = errors.Join(err, r.file.Sync()); err != nil {
		return err
	}
	r.size += int64(lines.Len())
	for id, e := range added {
		r.known[id] = true
		d := e.Data
		fmt.Printf("%s %-14s %s, %d + %d tokens\n", id, d.Outcome, d.Model, d.Prompt, d.Completion)
	}
	return nil
}
