package forward

import (
	"io"
	"os"
	"time"
)

// Upload is a request body that waits in a file, so that memory holds none of
// it. Attempts read the file one after the other; it is the caller's to close
// once Open has returned.
type Upload struct {
	File *os.File
	Size int64 // of the file
	// Insert is sent in place of the bytes from Cut up to Resume.
	Insert      []byte
	Cut, Resume int64
}

// length is what is sent, in bytes; 0 of none.
func (u *Upload) length() int64 {
	if u == nil {
		return 0
	}
	return u.Size - (u.Resume - u.Cut) + int64(len(u.Insert))
}

// uploadRate is what an engine must take of an upload, in bytes a second, once
// sendTimeout is over.
const uploadRate = 1 << 20

// sendUpload writes a request whose body is in a file; head is the rest of it.
func (c *Call) sendUpload(head []byte) error {
	u := c.Upload
	c.writeLimit(sendTimeout + time.Duration(u.length()/uploadRate)*time.Second)
	defer c.writeLimit(0)
	if _, err := c.conn.Write(head); err != nil {
		return lost(err)
	}
	if err := c.sendFile(0, u.Cut); err != nil {
		return err
	}
	if len(u.Insert) > 0 {
		if _, err := c.conn.Write(u.Insert); err != nil {
			return lost(err)
		}
	}
	return c.sendFile(u.Resume, u.Size)
}

// sendFile writes a part of the upload's file: the kernel copies it, unless it
// has to be encrypted first.
func (c *Call) sendFile(from, to int64) error {
	f := c.Upload.File
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	var w io.Writer = c.conn
	if c.conn.sys != nil {
		w = c.conn.raw
	}
	n, err := io.Copy(w, io.LimitReader(f, to-from))
	if err == nil && n < to-from {
		err = io.ErrUnexpectedEOF // the file was cut behind our back
	}
	return lost(err)
}
