package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
	"github.com/llmproxy/llmproxy/bench/tenants"
)

// server is the Redis of one gateway and no other, so that all it does is done for
// that one's requests.
type server struct {
	used   tenants.Used // the key in use, but for its secret
	others int          // keys beside it

	addr    string
	process *process // nil: not started yet
	secret  string   // of the key in use; "" before it is made
}

const redisServer = "redis-server"

// installRedis sees to it that there is a redis-server, without having it run as a
// service.
func installRedis(ctx context.Context, _ string) error {
	if _, err := exec.LookPath(redisServer); err == nil {
		return nil
	}
	return command(ctx, "", "scripts/apt.sh", redisServer)
}

// startRedis starts the Redis of a gateway that has one. It keeps what it is told as
// the documentation asks, and has the core of the generator, which stands for other
// machines.
func (b *bench) startRedis(ctx context.Context, g *gateway) error {
	s := g.redis
	if s == nil || s.process.alive() {
		return nil
	}
	s.secret = ""
	dir := filepath.Join(b.home(g), "redis")
	err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
	if err != nil {
		return err
	}
	if s.addr, err = b.freeAddr(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	cmd := exec.Command(redisServer, "--bind", host, "--port", port, "--dir", dir,
		"--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction")
	if s.process, err = b.begin(cmd, b.engineCore, filepath.Join(b.home(g), "redis.log")); err != nil {
		return err
	}
	for end := time.Now().Add(b.patience); ; {
		if _, err = s.info(ctx); err == nil {
			return nil
		}
		if !s.process.alive() {
			return fmt.Errorf("cannot start its Redis: %w", s.process.death())
		}
		if time.Now().After(end) {
			return fmt.Errorf("its Redis does not answer: %w", err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// fill makes keys in an empty Redis, as the operator of a gateway with that
// configuration does.
func (s *server) fill(ctx context.Context, config string) error {
	for n := range 1 + s.others {
		flags := s.used.Flags()
		if n > 0 {
			flags = []string{"-name", fmt.Sprintf("tenant %d", n), "-rpm", "1"}
		}
		out, err := exec.CommandContext(ctx, llmproxy, append([]string{"keys", "new", "-format", "json", "-config", config}, flags...)...).Output()
		if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
			return fmt.Errorf("cannot make a key: %s", shorten(string(failed.Stderr)))
		}
		var made struct{ Key string }
		if err == nil {
			err = json.Unmarshal(out, &made)
		}
		if err != nil {
			return fmt.Errorf("cannot make a key: %w", err)
		}
		if n == 0 {
			s.secret = made.Key
		}
	}
	return nil
}

// info asks for all that the server tells of itself.
func (s *server) info(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "INFO ALL\r\n"); err != nil {
		return "", err
	}
	return readBulk(bufio.NewReader(conn))
}

// readBulk reads an answer that is one text.
func readBulk(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	digits, ok := strings.CutPrefix(strings.TrimSpace(line), "$")
	n, err := strconv.ParseUint(digits, 10, 24)
	if !ok || err != nil {
		return "", fmt.Errorf("it is not a text: %s", shorten(line))
	}
	text := make([]byte, n)
	_, err = io.ReadFull(r, text)
	return string(text), err
}

// asked is what was asked of a Redis so far, and what was not.
type asked struct {
	scripts  int64
	commands int64 // beside
	alone    int64 // decisions that its gateway made without it
	cpu      usage
}

// asked reads it; zeroes for a gateway that has none.
func (g *gateway) asked(ctx context.Context) (a asked, err error) {
	if g.redis == nil {
		return a, nil
	}
	text, err := g.redis.info(ctx)
	if err != nil {
		return a, fmt.Errorf("cannot ask its Redis: %w", err)
	}
	if a.scripts, a.commands, err = count(text); err != nil {
		return a, err
	}
	for _, addr := range g.addrs() {
		page, err := call(ctx, http.MethodGet, "http://"+addr+"/metrics", "", nil)
		if err != nil {
			return a, err
		}
		n, err := number(page, "llmproxy_decided_alone_total ")
		if err != nil {
			return a, err
		}
		a.alone += n
	}
	a.cpu, err = cpu(g.redis.process.pid())
	return a, err
}

// count reads how many scripts ran, and how many commands beside: those that scripts
// call count as any other.
func count(info string) (scripts, commands int64, err error) {
	if commands, err = number(info, "total_commands_processed:"); err != nil {
		return 0, 0, err
	}
	for _, name := range []string{"eval", "evalsha"} {
		start := "cmdstat_" + name + ":calls="
		if !strings.Contains(info, "\n"+start) {
			continue // none yet
		}
		n, err := number(info, start)
		if err != nil {
			return 0, 0, err
		}
		scripts += n
	}
	return scripts, commands - scripts, nil
}

// number is the one at the start of what follows the beginning of a line.
func number(text, start string) (int64, error) {
	_, after, ok := strings.Cut("\n"+text, "\n"+start)
	digits := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
	if !ok || digits == "" {
		return 0, fmt.Errorf("there is no %s", start)
	}
	return strconv.ParseInt(digits, 10, 64)
}

// work is what was done for a load: time on CPU of the gateway in nanoseconds, 0 when
// there is none, and what its Redis did, nil when it has none.
type work struct {
	cpu   int64
	redis *redisWork
}

type redisWork struct{ cpu, scripts, commands, alone int64 }

// during tells what a gateway does while something goes on.
func (g *gateway) during(ctx context.Context, goesOn func() error) (w work, err error) {
	earlier, err := g.asked(ctx) // before its CPU is read: to be asked is work, too
	if err != nil {
		return w, err
	}
	before, err := g.cpu()
	if err != nil {
		return w, err
	}
	if err := goesOn(); err != nil {
		return w, err
	}
	after, err := g.cpu()
	if err != nil || g.redis == nil {
		return work{cpu: after.since(before)}, err
	}
	later, err := g.asked(ctx)
	return work{after.since(before), &redisWork{
		cpu: later.cpu.since(earlier.cpu), scripts: later.scripts - earlier.scripts,
		commands: later.commands - earlier.commands, alone: later.alone - earlier.alone,
	}}, err
}

// values are what a Redis did for each of some requests.
func (w *redisWork) values(requests int) map[string]float64 {
	n := float64(requests)
	return map[string]float64{
		results.RedisCPU:      float64(w.cpu) / 1e3 / n,
		results.RedisScripts:  float64(w.scripts) / n,
		results.RedisCommands: float64(w.commands) / n,
		results.DecidedAlone:  float64(w.alone) / n,
	}
}
