package httpapi_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"trakr/internal/lifecycle"
	"trakr/internal/store/storetest"
)

// places are everywhere a value could come to lie: the database as a dump, every
// file of the server's data directory with its write-ahead log, log lines, spans
// as they go over the wire, metrics, and what the API hands out as evidence.
func (w *world) places(spans *syncBuffer) map[string][]byte {
	w.T.Helper()
	w.Exec(`CHECKPOINT`)
	out := map[string][]byte{"dump": w.Dump(), "log": []byte(w.log.String()), "spans": []byte(spans.String()),
		"metrics": []byte(w.call(http.MethodGet, "/metrics", "", nil).body)}
	err := filepath.WalkDir(storetest.DataDirectory(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Type()&fs.ModeSocket != 0 {
			return nil // the server removes files while we look
		}
		if b, err := os.ReadFile(path); err == nil {
			out["file "+path[len(storetest.DataDirectory()):]] = b
		}
		return nil
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return out
}

// search reports every place that holds one of the texts, in any of the forms a
// database or a log could give it.
func search(places map[string][]byte, texts map[string]string) map[string][]string {
	found := map[string][]string{}
	for what, text := range texts {
		forms := [][]byte{[]byte(text), []byte(strings.ToUpper(text)), []byte(hex.EncodeToString([]byte(text)))}
		if id, err := uuid.Parse(text); err == nil {
			forms = append(forms, id[:], []byte(strings.ReplaceAll(text, "-", "")))
		}
		for place, content := range places {
			for _, f := range forms {
				if bytes.Contains(content, f) {
					found[what] = append(found[what], place)
					break
				}
			}
		}
	}
	return found
}

func TestNoValueOfATenantLiesAnywhereInClear(t *testing.T) {
	spans := &syncBuffer{}
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(spans, r.Body) }))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.URL+"/v1/traces")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	w := newWorld(t)

	x := invent("zqmarkerzq" + hex.EncodeToString([]byte(t.Name()))[:8])
	x.username, x.avatar = "zquserzq", "https://bitbucket.org/account/zqavatarzq/avatar/"
	id := w.install(x)
	service, reviewer := w.token(lifecycle.RoleService), w.token(lifecycle.RoleReviewer)
	ask := func(body any) reply { return w.call(http.MethodPost, "/v1/tenants/"+id+"/reads", service, body) }
	why := map[string]string{"code": "service_operation"}
	if r := ask(map[string]any{"fields": []string{"username", "avatar_url", "client_key", "principal_uuid"}, "reason": why}); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	// The ways in which values and surplus go astray: refusals, mistakes, replays.
	w.Clock.Add(10 * time.Second)
	w.deliver(installed, w.sign(x, installed, x.secret), x.body("installed", x.secret+"-rotated"))
	w.deliver(installed, w.sign(x, installed, "wrong"), x.body("installed", x.secret))
	w.deliver(installed, "", x.body("installed", x.secret)[:200])
	w.deliver(installed, "", strings.Replace(x.body("installed", x.secret), `"uuid":"{`, `"uuid":"`+x.mark, 1))
	w.deliver(installed+"?lxn="+x.mark, "", x.body("installed", x.secret))
	w.deliver("/"+x.username, "", "")
	ask(map[string]any{"fields": []string{x.username}, "reason": map[string]string{"code": x.username, "ref": x.mark + "@example.com"}})
	ask(map[string]any{x.username: 1})
	w.call(http.MethodGet, "/v1/tenants/"+x.username, service, nil)
	w.call(http.MethodGet, "/v1/audit/events?actor_id="+x.username, reviewer, nil)
	w.call(http.MethodGet, "/v1/sweeps", x.secret, nil)
	stranger := *x
	stranger.uuid = uuid.NewString()
	w.deliver(installed, "", stranger.body("installed", x.secret)) // refused by Bitbucket
	evidence := ""
	for _, path := range []string{"/v1/audit/export?format=ndjson", "/v1/audit/export?format=csv", "/v1/audit/events?limit=1000", "/v1/reports/location?format=html", "/v1/reports/retention?format=json", "/v1/sweeps"} {
		evidence += w.call(http.MethodGet, path, reviewer, nil).body
	}

	values := map[string]string{"client key": x.clientKey(), "uuid": x.uuid, "username": x.username, "avatar": "zqavatarzq", "secret": x.secret, "a stranger's uuid": stranger.uuid}
	surplus := map[string]string{"e-mail, phone, display name, actor, public key": x.mark}
	var sealed [][]byte
	look := func(when string) {
		t.Helper()
		if err := w.telemetry.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		places := w.places(spans)
		places["evidence"] = []byte(evidence)
		for what, where := range search(places, values) {
			t.Errorf("%s: the %s lies in clear in %v", when, what, where)
		}
		for what, where := range search(places, surplus) {
			t.Errorf("%s: %s in %v", when, what, where)
		}
		for _, b := range sealed {
			if bytes.Contains(places["dump"], []byte(hex.EncodeToString(b))) {
				t.Errorf("%s: a sealed value is still in a live row", when)
			}
		}
	}
	if len(spans.String()) == 0 {
		_ = w.telemetry.Shutdown(t.Context())
	}
	if !strings.Contains(spans.String(), "tenants/{id}/reads") {
		t.Fatal("no span arrived at the collector: the search would prove nothing")
	}
	look("while installed")

	for _, column := range []string{"client_key", "shared_secret", "principal_uuid", "username", "avatar_url"} {
		sealed = append(sealed, w.Bytes(`SELECT `+column+` FROM trakr.tenant_fields`))
	}
	if !bytes.Contains(w.Dump(), []byte(hex.EncodeToString(sealed[0]))) {
		t.Fatal("a dump does not show sealed values: the search would prove nothing")
	}
	w.Clock.Add(time.Second)
	if r := w.deliver(uninstalled, w.sign(x, uninstalled, x.secret+"-rotated"), x.body("uninstalled", "")); r.status != http.StatusNoContent {
		t.Fatalf("%d %s", r.status, r.body)
	}
	look("after the uninstall")

	// The search can find what is there: a value planted past the door.
	w.Exec(`CREATE TABLE public.leak AS SELECT $1::text AS v`, x.username)
	if found := search(w.places(spans), values); len(found["username"]) < 2 {
		t.Errorf("a planted value was found in %v only; the search is blind", found["username"])
	}
}
