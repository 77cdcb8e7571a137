package mockvllm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"mime"
	"mime/multipart"
)

// maxField bounds the text fields of a form together, as Starlette bounds each.
const maxField = 1 << 20

// form is what a multipart body held besides its text fields.
type form struct {
	file  bool  // a file was there
	bytes int64 // of the file
	hash  []byte
	flaw  string // why the body is no form, "" when it is one
}

// passing reads a body that is not kept: it counts and hashes what goes by.
type passing struct {
	r   io.Reader
	sum hash.Hash
	n   int64
	err error // the first that is not the end
}

func (p *passing) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	_, _ = p.sum.Write(b[:n])
	if p.err == nil && err != nil && !errors.Is(err, io.EOF) {
		p.err = err
	}
	return n, err
}

// boundary tells how the parts of a multipart body are kept apart, "" for
// another body.
func (x *call) boundary() string {
	kind, params, err := mime.ParseMediaType(x.req.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return ""
	}
	return params["boundary"]
}

// readForm reads a multipart body of any length in little memory. Its text
// fields become the JSON of call.body, so that a form is read like any request;
// a file leaves its length and hash.
func (x *call) readForm(boundary string) error {
	body := &passing{r: io.LimitReader(x.req.Body, maxBody+1), sum: sha256.New()}
	fields, flaw := x.readParts(multipart.NewReader(body, boundary))
	x.form.flaw = flaw
	// What follows the last part belongs to the body, and to its hash.
	_, _ = io.Copy(io.Discard, body)
	if body.err != nil {
		return body.err
	}
	if body.n > maxBody {
		return errors.New("body too large")
	}
	x.body = encode(fields)
	x.set(func(r *Entry) {
		r.BodyBytes, r.BodySHA256, r.FileBytes = int(body.n), hex.EncodeToString(body.sum.Sum(nil)), x.form.bytes
	})
	return nil
}

// readParts returns the text fields, of two with one name the last, or in
// Starlette's words why there are none.
func (x *call) readParts(parts *multipart.Reader) (fields map[string]string, flaw string) {
	const broken = "There was an error parsing the body"
	fields = map[string]string{}
	for left := int64(maxField); ; {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return fields, ""
		}
		if err != nil {
			return nil, broken
		}
		if part.FileName() != "" {
			sum := sha256.New()
			x.form.bytes, err = io.Copy(sum, part)
			x.form.file, x.form.hash = true, sum.Sum(nil)
		} else {
			var value []byte
			value, err = io.ReadAll(io.LimitReader(part, left+1))
			fields[part.FormName()] = string(value)
			left -= int64(len(value))
		}
		if err != nil {
			return nil, broken
		}
		if left < 0 {
			return nil, "Part exceeded maximum size of 1024KB."
		}
	}
}
