package simulate

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"trakr/internal/lifecycle"
)

func TestTheAPISaysOfAWorkspaceWhatItIsTold(t *testing.T) {
	a := &api{appKey: "trakr", secrets: map[string]string{}, said: map[string]said{}}
	srv := httptest.NewServer(a)
	defer srv.Close()
	a.base = srv.URL
	b, c := invent(), invent()
	a.know(b, b.secret)
	a.know(c, c.secret)
	a.say(b, Answer{Status: 500})
	a.say(c, Answer{Status: 404, For: 50 * time.Millisecond})
	ask := func(w *workspace) int {
		resp, err := http.Get(a.base + "/2.0/workspaces/%7B" + w.uuid + "%7D/hooks")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if ask(b) != 500 || ask(c) != 404 || ask(invent()) != 404 {
		t.Errorf("told: %d, %d", ask(b), ask(c))
	}
	time.Sleep(60 * time.Millisecond)
	if got := ask(c); got != http.StatusUnauthorized { // known again, and this question has no token
		t.Errorf("after its time: %d", got)
	}
}

func TestAnswersAreReadStrictly(t *testing.T) {
	for s, want := range map[string]Answer{"3=500": {3, 500, 0}, "2=404@24h": {2, 404, 24 * time.Hour}} {
		if got, err := ParseAnswer(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "3", "3=", "=500", "3=99", "3=100", "3=600", "3=500@", "3=500@soon", "3=500@-1h", "x=500", "3=500 "} {
		if _, err := ParseAnswer(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	c := Config{Target: "http://127.0.0.1:1", Admin: "http://127.0.0.1:2", API: "127.0.0.1:3", Installs: 2, Answers: []Answer{{3, 500, 0}}}
	if err := c.check(); lifecycle.AsFault(err).Kind != lifecycle.RequestInvalid {
		t.Errorf("a workspace that is not there: %v", err)
	}
}
