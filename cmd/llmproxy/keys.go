package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

const keysHelp = `llmproxy keys: keys that are made while the gateway runs

Usage:
  llmproxy keys new    -config file | -data dir [-name text] ...
  llmproxy keys list   -config file | -data dir [-format table|json]
  llmproxy keys revoke -config file | -data dir [-delete] id
  llmproxy keys hash   < file

new makes a key and shows it, once: what is kept has its hash only. It is kept where
the configuration says: in keys.json in the data_dir, or with auth.storage: redis in
Redis. list shows the keys that are there, and not those of the configuration. revoke
disables a key, or deletes it. A gateway that runs notices all of that. hash
reads a key of your own from standard input, because others could see
an argument, and prints what stands for it in the configuration's api_keys.

  -config file   the gateway's configuration, for its data_dir or its Redis
  -data dir      the data_dir itself, for keys.json; systemd's is /var/lib/llmproxy
  -format        table (default) or json; of list and new
  -delete        delete the key, with all that it says

What a new key does not say is as auth.defaults and rate_limit.per_key have it:

`

// keysUsage is what keys -h prints.
func keysUsage() string {
	var b strings.Builder
	b.WriteString(keysHelp)
	for _, o := range keyOptions() {
		fmt.Fprintf(&b, "  -%-13s %s\n", o.flag, o.does)
	}
	return b.String()
}

// keys is a command "keys" and what it was told.
type keys struct {
	config, data, format string
	remove               bool
	spec                 keystore.Spec
	args                 []string // what is no flag
	stdin                io.Reader
	stdout, stderr       io.Writer
}

// misuse is an error of the command line, or of the configuration that it names.
type misuse struct {
	error
	help bool // whether to say how the command is used
}

// manageKeys is the command "keys".
func manageKeys(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	k := &keys{stdin: stdin, stdout: stdout, stderr: stderr}
	what := ""
	if len(args) > 0 {
		what = args[0]
	}
	do := map[string]func() error{"new": k.create, "list": k.list, "revoke": k.revoke, "hash": k.hash}[what]
	if do == nil {
		if what == "-h" || what == "-help" || what == "--help" {
			return write(keysUsage(), stdout, stderr)
		}
		fmt.Fprintf(stderr, "keys needs one of new, list, revoke and hash\n\n%s", keysUsage())
		return exitUsage
	}
	if err := k.parse(what, args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage // flags has said why
	}
	err := do()
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, err)
	m, ok := errors.AsType[misuse](err)
	if !ok {
		return exitFailed
	}
	if m.help {
		fmt.Fprintf(stderr, "\n%s", keysUsage())
	}
	return exitUsage
}

// parse reads the flags of a command; they may stand behind its argument, too.
func (k *keys) parse(what string, args []string) error {
	flags := flag.NewFlagSet("llmproxy keys "+what, flag.ContinueOnError)
	flags.SetOutput(k.stderr)
	flags.Usage = func() { fmt.Fprint(k.stderr, keysUsage()) }
	if what != "hash" {
		flags.StringVar(&k.config, "config", "", "")
		flags.StringVar(&k.data, "data", "", "")
	}
	k.format = "table"
	switch what {
	case "new":
		for _, o := range keyOptions() {
			flags.Func(o.flag, "", func(value string) error { return o.set(&k.spec, value) })
		}
		fallthrough
	case "list":
		flags.Func("format", "", func(value string) error {
			k.format = value
			if value != "table" && value != "json" {
				return errors.New("write table or json")
			}
			return nil
		})
	case "revoke":
		flags.BoolVar(&k.remove, "delete", false, "")
	}
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return err
		}
		if args = flags.Args(); len(args) > 0 {
			k.args, args = append(k.args, args[0]), args[1:]
		}
	}
	return nil
}

// store opens the keys, for a command that takes so many arguments. closes must be
// called behind it.
func (k *keys) store(arguments int) (s keystore.Store, closes func(), err error) {
	switch {
	case (k.config == "") == (k.data == ""):
		return nil, nil, misuse{errors.New("keys needs -config file or -data dir"), true}
	case len(k.args) > arguments:
		return nil, nil, misuse{fmt.Errorf("unexpected argument number %d", arguments+1), true} // it may be a key
	case k.config != "":
		c, err := load(k.config)
		if err != nil {
			return nil, nil, misuse{err, false}
		}
		if !c.Auth.Enabled {
			fmt.Fprintf(k.stderr, "note: %s does not ask for keys: set auth.enabled\n", k.config)
		}
		return app.OpenKeys(c)
	}
	file, err := keystore.OpenFile(k.data, time.Now)
	return file, func() {}, err
}

// create is "keys new".
func (k *keys) create() error {
	secret, err := auth.Mint()
	if err != nil {
		return err
	}
	key, err := k.spec.Apply(auth.Key{Hash: auth.Hash(secret), Last4: secret[len(secret)-4:], Source: auth.Stored})
	if wrong, ok := errors.AsType[*keystore.SpecError](err); ok {
		for _, o := range keyOptions() {
			if o.field == wrong.Field {
				return misuse{fmt.Errorf("-%s: %s", o.flag, wrong.Message), true}
			}
		}
	}
	if err != nil {
		return err
	}
	s, closes, err := k.store(0)
	if err != nil {
		return err
	}
	defer closes()
	if err := s.Add(key); err != nil {
		return err
	}
	if err := k.show(secret, key); err != nil {
		_, undone := s.Remove(key.ID())
		return errors.Join(fmt.Errorf("the key could not be shown and was not made: %w", err), undone)
	}
	fmt.Fprintf(k.stderr, "The key is shown only now. Its hash is in %s, where a gateway that runs finds it.\n", s.Place())
	return nil
}

func (k *keys) show(secret string, key *auth.Key) error {
	if k.format == "json" {
		return k.writeJSON(struct {
			Key string `json:"key"`
			keystore.Public
		}{secret, keystore.View(key)})
	}
	_, err := fmt.Fprintf(k.stdout, "key  %s\nid   %s\n", secret, key.ID())
	return err
}

func (k *keys) writeJSON(v any) error {
	e := json.NewEncoder(k.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// list is "keys list".
func (k *keys) list() error {
	s, closes, err := k.store(0)
	if err != nil {
		return err
	}
	defer closes()
	if k.format == "json" {
		out := []keystore.Public{}
		for _, key := range s.Keys() {
			out = append(out, keystore.View(key))
		}
		return k.writeJSON(out)
	}
	rows := [][]string{{"id", "last4", "name", "user_id", "status", "quota", "period", "models", "ips", "expires", "created"}}
	for _, key := range s.Keys() {
		rows = append(rows, row(key, time.Now()))
	}
	return writeTable(k.stdout, rows, len(rows[0]))
}

// row is a key in the table of list.
func row(key *auth.Key, now time.Time) []string {
	v := keystore.View(key)
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	quota, status := "", text(v.Status)
	if v.TotalQuota != nil {
		quota = strconv.FormatInt(*v.TotalQuota, 10)
	}
	if end := key.Expires.Time(); !key.Disabled && !end.IsZero() && !now.Before(end) {
		status = "expired"
	}
	return []string{
		v.ID, v.Last4, text(v.Name), text(v.UserID), status, quota, text(v.QuotaResetPeriod),
		strings.Join(v.AllowedModels, ","), strings.Join(v.AllowedIPs, ","), text(v.ExpiresAt), v.CreatedAt,
	}
}

// revoke is "keys revoke".
func (k *keys) revoke() error {
	if len(k.args) == 0 {
		return misuse{errors.New("revoke needs the id of a key, as llmproxy keys list shows it"), true}
	}
	id, err := auth.ParseID(k.args[0])
	if err != nil {
		return misuse{err, true}
	}
	s, closes, err := k.store(1)
	if err != nil {
		return err
	}
	defer closes()
	did := "disabled"
	if k.remove {
		did = "deleted"
		_, err = s.Remove(id)
	} else {
		_, err = s.Replace(id, func(key auth.Key) (*auth.Key, error) {
			key.Disabled = true
			return &key, nil
		})
	}
	if errors.Is(err, keystore.ErrNotFound) {
		return fmt.Errorf("%s has no key %s; one of the configuration is revoked there, with status: disabled", s.Place(), id)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(k.stdout, "%s is %s\n", id, did)
	return err
}

// hash is "keys hash".
func (k *keys) hash() error {
	if len(k.args) > 0 {
		return misuse{errors.New("hash reads the key from standard input: others could see an argument"), true}
	}
	if f, ok := k.stdin.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintln(k.stderr, "Write or paste the key, then Enter and Ctrl-D.")
		}
	}
	const most = 4 << 10
	b, err := io.ReadAll(io.LimitReader(k.stdin, most+1))
	if err != nil {
		return fmt.Errorf("cannot read the key: %w", err)
	}
	key := strings.TrimRight(string(b), "\r\n")
	switch {
	case key == "":
		return errors.New("there is no key on standard input")
	case len(key) > most:
		return fmt.Errorf("the key has more than %d bytes", most)
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return errors.New("the key has a blank, a line break or a control character in it: a client could not send it")
	case auth.LooksMistyped([]byte(key)):
		return errors.New("the key is mistyped: it looks like one that llmproxy made, and its checksum is wrong")
	}
	_, err = fmt.Fprintf(k.stdout, "key_hash: sha256:%x\n", auth.Hash(key))
	return err
}
