package webhook

import (
	"log/slog"
	"time"
)

// limiter lets one message through a minute and counts the others.
type limiter struct {
	last   time.Time
	hidden int
}

// allow tells whether a message may be logged now, and how many were not since
// the last one.
func (l *limiter) allow(now time.Time) (hidden int, ok bool) {
	if !l.last.IsZero() && now.Sub(l.last) < time.Minute {
		l.hidden++
		return 0, false
	}
	hidden = l.hidden
	*l = limiter{last: now}
	return hidden, true
}

// tell logs what is new about the receiver. failures is how many attempts had
// failed in a row before this one.
func (r *run) tell(a answer, failures uint64) {
	if a.result == delivered {
		if failures > 0 && r.complained {
			r.complained = false
			r.config.Log.Info("the webhook accepts events again", "url", r.url.String(), "failures", failures)
		}
		return
	}
	hidden, ok := r.loud.allow(r.config.Now())
	if !ok && a.result != gone {
		return
	}
	r.complained = true
	level, advice := advise(a)
	attrs := []any{"url", r.url.String(), "result", string(a.result), "failures", failures + 1, "do", advice}
	if a.status != 0 {
		attrs = append(attrs, "status", a.status)
	}
	if a.cause != "" {
		attrs = append(attrs, "error", a.cause)
	}
	if a.location != "" {
		attrs = append(attrs, "location", a.location)
	}
	if hidden > 0 {
		attrs = append(attrs, "not_logged", hidden)
	}
	r.config.Log.Log(r.work, level, "the webhook did not accept events", attrs...)
}

// advise tells what the operator is to do about an answer, and how loudly.
func advise(a answer) (slog.Level, string) {
	switch a.result {
	case redirected:
		return slog.LevelError, "set usage_hook.url to where the receiver is now: redirects are not followed"
	case tooLarge:
		return slog.LevelWarn, "let the receiver take larger bodies; until then each batch is sent in parts"
	case rejected:
		return slog.LevelError, "see the receiver's log; where it answers so to a bad signature, check usage_hook.secret"
	case gone:
		return slog.LevelError, "nothing is sent any more: set another usage_hook.url, or repair the receiver and restart; events are kept"
	case refused:
		if a.status == 401 || a.status == 403 {
			return slog.LevelError, "check usage_hook.secret, and whom the receiver lets in"
		}
		return slog.LevelError, "check usage_hook.url: it must take POST"
	}
	return slog.LevelWarn, "nothing, if it passes: it is tried again"
}
