package erasure_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"trakr/internal/erasure"
	"trakr/internal/lifecycle"
)

// Erasures that begin together are finished by one pass, a pass that meets a running one
// is retried, and a failure ends nothing.
func TestAFinisherRunsOnePassForErasuresThatBeginTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := erasure.NewFinisher()
		ctx, cancel := context.WithCancel(t.Context())
		var passes atomic.Int32
		ended := make(chan struct{})
		go func() {
			f.Run(ctx, slog.New(slog.DiscardHandler), func(context.Context) error {
				switch passes.Add(1) {
				case 1:
					return lifecycle.Fail(lifecycle.SweepRunning, "A sweep of this kind is running now.")
				case 3:
					return errors.New("the database does not answer")
				}
				return nil
			})
			close(ended)
		}()
		after := func(want int32) {
			t.Helper()
			time.Sleep(time.Minute)
			if got := passes.Load(); got != want {
				t.Fatalf("%d passes, want %d", got, want)
			}
		}
		after(0)
		for range 5 {
			f.Begun()
		}
		after(2) // one that met a running pass, and its repetition
		f.Begun()
		after(3)
		f.Begun()
		after(4)
		cancel()
		<-ended
	})
}
