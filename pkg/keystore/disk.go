package keystore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// disk is the file system as a change uses it; the tests put faults in its place.
type disk struct {
	create  func(path string) (*os.File, error)
	write   func(f *os.File, b []byte) error
	sync    func(f *os.File) error
	rename  func(from, to string) error
	syncDir func(dir string) error
}

func realDisk() disk {
	return disk{
		create: func(path string) (*os.File, error) {
			return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
		},
		write: func(f *os.File, b []byte) error {
			_, err := f.Write(b)
			return err
		},
		sync:   (*os.File).Sync,
		rename: os.Rename,
		syncDir: func(dir string) error {
			d, err := os.Open(dir)
			if err != nil {
				return err
			}
			defer d.Close()
			return d.Sync()
		},
	}
}

// replace puts text at path durably, for owner to read: a crash at any point leaves
// the old file or the new one. With an error there may be either. What a crash leaves
// beside it, the next call overwrites.
func (d disk) replace(path string, text []byte, owner os.FileInfo) (info os.FileInfo, err error) {
	temp := filepath.Join(filepath.Dir(path), "new."+filepath.Base(path))
	f, err := d.create(temp)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = d.fill(f, text, owner); err == nil {
		err = d.rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp) // it is of no use, and of no harm either
		return nil, err
	}
	return info, d.syncDir(filepath.Dir(path))
}

func (d disk) fill(f *os.File, text []byte, owner os.FileInfo) (os.FileInfo, error) {
	if err := f.Chmod(0o600); err != nil { // a crash may have left the file with any
		return nil, err
	}
	if err := giveTo(f, owner); err != nil {
		return nil, err
	}
	if err := d.write(f, text); err != nil {
		return nil, err
	}
	if err := d.sync(f); err != nil {
		return nil, err
	}
	return f.Stat()
}

// giveTo lets a file that root writes belong to whom the file before, or the
// directory, belongs: else the gateway could not read it.
func giveTo(f *os.File, owner os.FileInfo) error {
	stat, ok := owner.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// place is where the keys file is in truth, and its lock.
type place struct {
	file string
	dir  os.FileInfo
	lock *os.File // the lock ends with it
}

// owner is what tells whom a new file is to belong to.
func (p place) owner(before os.FileInfo) os.FileInfo {
	if before != nil {
		return before
	}
	return p.dir
}

// lock keeps all others from changing the file. The lock stands beside the file that
// a symbolic link leads to, so that two who come by different ways meet; and it goes
// with the process, however that ends.
func (s *File) lock() (p place, err error) {
	if p.file, err = s.follow(); err != nil {
		return p, err
	}
	if p.dir, err = os.Stat(filepath.Dir(p.file)); err != nil {
		return p, fmt.Errorf("cannot lock the keys: %w", err)
	}
	path := filepath.Join(filepath.Dir(p.file), "keys.lock")
	if p.lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return p, fmt.Errorf("cannot lock the keys: %w: let this user write in the directory", err)
	}
	err = giveTo(p.lock, p.dir)
	if err == nil {
		err = wait(p.lock, s.patience)
	}
	if err == nil {
		var now string
		if now, err = s.follow(); err == nil && now != p.file {
			err = errors.New("the file has moved meanwhile: try again")
		}
	}
	if err != nil {
		p.lock.Close()
		return p, fmt.Errorf("cannot lock the keys with %s: %w", path, err)
	}
	return p, nil
}

// follow is where the keys file is, or will be, without symbolic links.
func (s *File) follow() (string, error) {
	file, err := filepath.EvalSymlinks(s.Path())
	if errors.Is(err, os.ErrNotExist) {
		var dir string
		dir, err = filepath.EvalSymlinks(s.dir)
		file = filepath.Join(dir, fileName)
	}
	if err != nil {
		return "", fmt.Errorf("cannot find the keys: %w", err)
	}
	return file, nil
}

// wait takes the lock. It asks again and again rather than wait in the kernel: a
// process that was stopped while it has the lock must not stop this one.
func wait(f *os.File, most time.Duration) error {
	const pause = 2 * time.Millisecond
	for ends := time.Now().Add(most); ; time.Sleep(pause) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if time.Now().After(ends) {
			return fmt.Errorf("another process has had it for %s: find it with fuser, and end it", most)
		}
	}
}
