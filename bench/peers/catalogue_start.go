package main

import (
	"bytes"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"
)

//go:embed configs
var configs embed.FS

// program is how a peer is started: its configuration files, named as in
// configs, what is added to its environment, and the command. All of them are
// templates of a place.
type program struct {
	configs []string
	env     []string
	args    []string
}

// place is what a configuration must know.
type place struct {
	Dir                    string // of the rendered files; absolute
	Listen, Host, Port     string // where it listens, whole and in parts
	Engine                 string // where its upstream listens
	EngineHost, EnginePort string
	Redis                  string // where its Redis listens; "" without one
	Spare                  string // a further free port
	Model                  string // that all requests name
	Descriptors            uint64 // that a process may have
	Connections            uint64 // that one with a table for them should have room for
	Root                   bool
}

// tableLimit bounds the tables of nginx and HAProxy, which lay them out at the
// start: with a limit of a million descriptors they would be what is measured as
// idle memory.
const tableLimit = 65536

func newPlace(dir, listen, engine string) (place, error) {
	p := place{Listen: listen, Engine: engine, Model: model, Root: os.Getuid() == 0}
	var err error
	if p.Dir, err = filepath.Abs(dir); err != nil {
		return p, err
	}
	if p.Host, p.Port, err = net.SplitHostPort(listen); err != nil {
		return p, err
	}
	if p.EngineHost, p.EnginePort, err = net.SplitHostPort(engine); err != nil {
		return p, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return p, err
	}
	defer ln.Close()
	_, p.Spare, _ = net.SplitHostPort(ln.Addr().String())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return p, fmt.Errorf("cannot tell the limit of descriptors: %w", err)
	}
	p.Descriptors, p.Connections = limit.Max, min(limit.Max, tableLimit)
	return p, nil
}

// start writes the configuration files into dir and returns the command.
func (p program) start(dir, listen, engine string) (*exec.Cmd, error) {
	at, err := newPlace(dir, listen, engine)
	if err != nil {
		return nil, err
	}
	for _, name := range p.configs {
		text, err := configs.ReadFile("configs/" + name)
		if err != nil {
			return nil, err
		}
		filled, err := fill(string(text), at)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(at.Dir, name), []byte(filled), 0o644); err != nil {
			return nil, err
		}
	}
	args, err := fillAll(p.args, at)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(args[0], args[1:]...)
	env, err := fillAll(p.env, at)
	cmd.Env = append(os.Environ(), env...)
	return cmd, err
}

func fillAll(texts []string, at place) ([]string, error) {
	filled := make([]string, len(texts))
	for i, text := range texts {
		var err error
		if filled[i], err = fill(text, at); err != nil {
			return nil, err
		}
	}
	return filled, nil
}

func fill(text string, at place) (string, error) {
	t, err := template.New("").Parse(text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = t.Execute(&out, at)
	return out.String(), err
}
