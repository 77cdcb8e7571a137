package limit_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// BerriAI/litellm#18730: each of five requests saw the bucket before any of them was counted.
func TestFiveAtOnceOnALimitForOne(t *testing.T) {
	r := limit.PerMinute(100)
	tokens := make([]limit.Tokens, 2000)
	admitted := make([]atomic.Int64, len(tokens))
	var arrived atomic.Int64
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for i := range tokens {
				arrived.Add(1)
				for arrived.Load() < 5*int64(i+1) { // all at once, or nothing is seen
					runtime.Gosched()
				}
				held, wait := tokens[i].Reserve(0, r, 175)
				switch {
				case wait == 0 && held == 100:
					admitted[i].Add(1)
				case wait == 0 || held != 0:
					t.Errorf("holds %d and waits %v, want what the limit has, 100, or nothing", held, wait)
				}
			}
		})
	}
	wg.Wait()
	for i := range tokens {
		if admitted[i].Load() != 1 || tokens[i].Reserved() != 100 {
			t.Fatalf("%d admitted, %d reserved, want 1 and 100", admitted[i].Load(), tokens[i].Reserved())
		}
	}
}

func TestHeldTokensDoNotComeBackWithTime(t *testing.T) {
	var tokens limit.Tokens
	r := limit.PerMinute(60)
	tokens.Reserve(0, r, 60)
	if held, wait := tokens.Reserve(3600*second, r, 1); held != 0 || wait != time.Second {
		t.Errorf("an hour later it holds %d and waits %v, want 0 and 1s, as if all were used now", held, wait)
	}
	tokens.Charge(3600*second, r, 60, 60)
	if held, wait := tokens.Reserve(3600*second+second-1, r, 1); held != 0 || wait != 1 {
		t.Errorf("charged a second ago, less 1ns: holds %d, waits %v", held, wait)
	}
	if held, wait := tokens.Reserve(3601*second, r, 1); held != 1 || wait != 0 {
		t.Errorf("charged a second ago: holds %d, waits %v", held, wait)
	}
}

func TestDebtDelaysTheNextAndNothingElse(t *testing.T) {
	var tokens limit.Tokens
	r := limit.PerMinute(60)
	held, _ := tokens.Reserve(0, r, 10)
	for range 3 { // while the answer runs
		tokens.Charge(0, r, 64, min(held, 4))
		held -= min(held, 4)
	}
	if held, wait := tokens.Reserve(0, r, 0); held != 0 || wait != 0 {
		t.Errorf("a request for nothing waits %v", wait)
	}
	if _, wait := tokens.Reserve(0, r, 1); wait != (3*64-60+1)*time.Second {
		t.Errorf("waits %v, want until the debt of 132 and its own one are back", wait)
	}
	if left, full := tokens.Look(0, r); left != 0 || full != 192*time.Second {
		t.Errorf("%d left, full in %v, want 0 and 3m12s", left, full)
	}
	if tokens.Reserved() != 0 || tokens.Idle(192*second-1) || !tokens.Idle(192*second) {
		t.Errorf("%d reserved, idle too early %v, idle %v", tokens.Reserved(), tokens.Idle(192*second-1), tokens.Idle(192*second))
	}
}

func TestNothingGeneratedCostsNothing(t *testing.T) {
	var tokens limit.Tokens
	r := limit.PerMinute(60)
	held, _ := tokens.Reserve(0, r, 1000)
	if left, full := tokens.Look(0, r); left != 0 || full != time.Minute || tokens.Idle(0) {
		t.Errorf("held: %d left, full in %v, idle %v", left, full, tokens.Idle(0))
	}
	tokens.Charge(0, r, 0, held)
	if left, full := tokens.Look(0, r); left != 60 || full != 0 || !tokens.Idle(0) {
		t.Errorf("refunded: %d left, full in %v, idle %v", left, full, tokens.Idle(0))
	}
}

// A limit that a reload removes must still get back what it gave out.
func TestNoLimitHoldsNothingAndGivesBackAll(t *testing.T) {
	var tokens limit.Tokens
	if held, wait := tokens.Reserve(0, limit.Rate{}, 1000); held != 0 || wait != 0 || !tokens.Idle(0) {
		t.Errorf("without a limit it holds %d, waits %v", held, wait)
	}
	held, _ := tokens.Reserve(0, limit.PerMinute(10), 5)
	tokens.Charge(0, limit.Rate{}, 5, held)
	if !tokens.Idle(0) {
		t.Errorf("%d reserved", tokens.Reserved())
	}
}

func TestGivingBackTwiceIsTold(t *testing.T) {
	var tokens limit.Tokens
	r := limit.PerMinute(60)
	held, _ := tokens.Reserve(0, r, 10)
	tokens.Charge(0, r, 0, held)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		if tokens.Reserved() != 0 {
			t.Errorf("%d reserved: others would get more than there is", tokens.Reserved())
		}
	}()
	tokens.Charge(0, r, 0, held)
}
