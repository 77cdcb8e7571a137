package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// maxReply bounds what is read of one string and the items of one list; and the
// lists in lists.
const (
	maxReply = 64 << 20
	maxDepth = 16
)

// ask sends one command on a connection of its own.
func ask(addr, password string, timeout time.Duration, args []string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	in := bufio.NewReader(conn)
	if password != "" {
		if _, err := exchange(conn, in, []string{"AUTH", password}); err != nil {
			return "", err
		}
	}
	return exchange(conn, in, args)
}

// exchange sends a command and reads its answer.
func exchange(out io.Writer, in *bufio.Reader, args []string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return "", err
	}
	return readReply(in, maxDepth)
}

// readReply reads an answer of RESP2 as text.
func readReply(in *bufio.Reader, depth int) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if line == "" {
		return "", errors.New("an empty answer")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", errors.New(rest)
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < -1 || n > maxReply || depth == 0 {
		return "", fmt.Errorf("an answer that cannot be read: %.40q", line)
	}
	switch {
	case n == -1:
		return "", nil
	case kind == '$':
		return readText(in, n)
	case kind == '*':
		return readList(in, n, depth-1)
	}
	return "", fmt.Errorf("an answer of an unknown kind: %.40q", line)
}

func readText(in io.Reader, n int) (string, error) {
	var b strings.Builder
	if _, err := io.CopyN(&b, in, int64(n)+2); err != nil {
		return "", fmt.Errorf("half an answer: %w", err)
	}
	text := strings.TrimSuffix(b.String(), "\r\n")
	if len(text) != n {
		return "", errors.New("an answer that is longer than it says")
	}
	return text, nil
}

// readList reads n answers. An error among them is the error of all.
func readList(in *bufio.Reader, n, depth int) (string, error) {
	var items []string
	for range n {
		item, err := readReply(in, depth)
		if err != nil {
			return "", err
		}
		items = append(items, item)
	}
	return strings.Join(items, "\n"), nil
}
