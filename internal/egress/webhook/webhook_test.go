package webhook_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"trakr/internal/egress/webhook"
	"trakr/internal/lifecycle"
)

// The secret of the specification's own example; no endpoint uses it.
const known = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func key(t *testing.T) webhook.Key {
	t.Helper()
	k, err := webhook.ParseKey(lifecycle.NewSecret(known))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The published vector of Standard Webhooks.
func TestTheSignatureIsTheStandards(t *testing.T) {
	got := key(t).Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 999), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestOnlySecretsOfTheStandardsFormAreTaken(t *testing.T) {
	long := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, n)) }
	for s, ok := range map[string]bool{"whsec_" + long(24): true, "whsec_" + long(32): true, "whsec_" + long(64): true, long(32): false,
		"whsec_" + long(23): false, "whsec_" + long(65): false, "whsec_": false, "": false, "whsec_marker!": false, "WHSEC_" + long(32): false} {
		_, err := webhook.ParseKey(lifecycle.NewSecret(s))
		if (err == nil) != ok || (err != nil && strings.Contains(err.Error(), "marker")) {
			t.Errorf("%d bytes: %v", len(s), err)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v %s", key(t), key(t), key(t), key(t)); strings.Contains(s, "MfKQ") || strings.Contains(s, "49") {
		t.Errorf("the key prints as %s", s)
	}
}

func event(id string) webhook.Event {
	return webhook.Event{ID: id, Source: "https://trakr.example.com/apps/trakr", Type: "com.trakr.test", Subject: "s", Time: time.Date(2026, 11, 24, 10, 0, 0, 0, time.FixedZone("", 3600)),
		Data: map[string]int{"count": 3}}
}

// A receiver that knows nothing of this package verifies what it gets.
func TestAReceiverCanVerifyWhatItGets(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 5, 0, time.UTC)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(known, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mac := hmac.New(sha256.New, raw)
		fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
			t.Errorf("signature %q, want %q", r.Header.Get("webhook-signature"), want)
		}
		if r.Method != http.MethodPost || r.Header.Get("webhook-id") != "e1" || r.Header.Get("webhook-timestamp") != fmt.Sprint(now.Unix()) || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json") {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer endpoint.Close()
	if err := webhook.NewSender(endpoint.URL, key(t), func() time.Time { return now }).Send(t.Context(), event("e1")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"specversion": "1.0", "id": "e1", "source": "https://trakr.example.com/apps/trakr", "type": "com.trakr.test", "subject": "s",
		"time": "2026-11-24T09:00:00Z", "datacontenttype": "application/json"} {
		if got[name] != want {
			t.Errorf("%s is %v, want %s", name, got[name], want)
		}
	}
	if data, ok := got["data"].(map[string]any); !ok || data["count"] != 3.0 {
		t.Errorf("data: %v", got["data"])
	}
}

// No error contains the address, the secret or the receiver's answer, and no redirect is
// followed.
func TestErrorsAreSilentAboutSecrets(t *testing.T) {
	elsewhere := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere = true }))
	defer other.Close()
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/marker/redirect":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/marker/broken":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Close()
		default:
			http.Error(w, "marker", http.StatusInternalServerError)
		}
	}))
	defer endpoint.Close()
	for _, url := range []string{endpoint.URL + "/marker/redirect", endpoint.URL + "/marker/broken", endpoint.URL + "/marker/refused", "http://127.0.0.1:1/marker", "http://marker\x7f/"} {
		err := webhook.NewSender(url, key(t), time.Now).Send(t.Context(), event("e"))
		if err == nil || strings.Contains(fmt.Sprintf("%+v", err), "marker") || strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "MfKQ") {
			t.Errorf("%v", err)
		}
	}
	if elsewhere {
		t.Error("a redirect was followed")
	}
}
