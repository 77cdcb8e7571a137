package openai

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"testing"
)

// FuzzForm: any cut of the same bytes gives the same result, and what is accepted
// is read the same by mime/multipart.
func FuzzForm(f *testing.F) {
	for _, s := range []string{
		part(`name="file"; filename="a\"b.mp3"`, "x\r\n--X\r\n\r") + part(`name=model`, "m") + part(`name="stream"`, "on") + lastBoundary,
		part(`name="model"`, "") + "--XX--", "--XX--\r\n\r\n", part(`name="model"; filename="x"`, "m") + lastBoundary,
		"--XX\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: binary\r\n" + part(`name="model"`, "m")[6:] + lastBoundary,
		part(`name="x"; filename*=utf-8''%c3%a9; filename="a;b"; y=z`, "") + part(`name="x"`, "") + lastBoundary,
	} {
		f.Add([]byte(s), uint64(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		whole, err := written(t, string(p), piecesOf(len(p)+1))
		bytewise, err1 := written(t, string(p), piecesOf(1))
		pieces := rand.New(rand.NewPCG(seed, 0))
		cut, err2 := written(t, string(p), func() int { return 1 + pieces.IntN(100) })
		for _, g := range []*Form{bytewise, cut} {
			if g.Model != whole.Model || g.Stream != whole.Stream || g.ModelFrom != whole.ModelFrom || g.ModelTo != whole.ModelTo {
				t.Fatalf("%q, seed %d: %+v in pieces, %+v whole", p, seed, g, whole)
			}
		}
		if fmt.Sprint(err) != fmt.Sprint(err1) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("%q, seed %d: %v in pieces, %v bytewise, %v whole", p, seed, err2, err1, err)
		}
		if err == nil {
			compareWithMultipart(t, p, whole)
		}
	})
}

func compareWithMultipart(t *testing.T, p []byte, f *Form) {
	fields := map[string][]string{}
	r := multipart.NewReader(bytes.NewReader(p), "XX")
	for {
		// Not NextRawPart: it decodes what it is told is encoded, as others may.
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%q: mime/multipart refuses what we accept: %v", p, err)
		}
		data, err := io.ReadAll(part)
		if name := part.FormName(); name == "model" || name == "stream" {
			if err != nil || part.FileName() != "" {
				t.Fatalf("%q: mime/multipart finds a file or fails: %v", p, err)
			}
			fields[name] = append(fields[name], string(data))
		}
	}
	if models := fields["model"]; len(models) > 1 || (len(models) == 1) != (f.ModelTo > 0) || len(models) == 1 && models[0] != f.Model {
		t.Fatalf("%q: got %+v, mime/multipart finds %q", p, f, models)
	}
	if got := string(p[f.ModelFrom:f.ModelTo]); got != f.Model {
		t.Fatalf("%q: model is %q, at its place stands %q", p, f.Model, got)
	}
	if streams := fields["stream"]; len(streams) > 1 || f.Stream != (len(streams) == 1 && isTrue(streams[0])) {
		t.Fatalf("%q: got %+v, mime/multipart finds %q", p, f, streams)
	}
}
