package delivery_test

import (
	"testing"
	"time"

	"trakr/internal/delivery"
)

var schedule = delivery.Schedule{First: 10 * time.Second, Longest: time.Hour, LongestAsked: 24 * time.Hour, MaxAge: 72 * time.Hour}

func TestTheWaitDoublesUpToItsBound(t *testing.T) {
	for failed, want := range map[int]time.Duration{0: 10 * time.Second, 1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second,
		9: 2560 * time.Second, 10: time.Hour, 1 << 40: time.Hour} {
		if got := schedule.Wait(failed); got != want {
			t.Errorf("after %d failed attempts: %s, want %s", failed, got, want)
		}
	}
}

func TestAReceiverMayAskForADayAtMost(t *testing.T) {
	if got := schedule.Asked(2 * time.Hour); got != 2*time.Hour {
		t.Errorf("two hours: %s", got)
	}
	if got := schedule.Asked(1000 * time.Hour); got != 24*time.Hour {
		t.Errorf("a thousand hours: %s", got)
	}
}

func TestADeliveryIsGivenUpAtItsAge(t *testing.T) {
	began := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	for age, want := range map[time.Duration]bool{0: false, 72*time.Hour - time.Minute: false, 72 * time.Hour: true, 73 * time.Hour: true} {
		if got := schedule.Over(began, began.Add(age)); got != want {
			t.Errorf("after %s: %v", age, got)
		}
	}
	if (delivery.Schedule{}).Over(began, began.Add(1e6*time.Hour)) {
		t.Error("without an age it is given up")
	}
}

func TestJitterStaysWithinAFifth(t *testing.T) {
	for range 1000 {
		if d := delivery.Jitter(time.Hour); d < 48*time.Minute || d > 72*time.Minute {
			t.Fatalf("%s", d)
		}
	}
}
