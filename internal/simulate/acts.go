package simulate

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"trakr/internal/connect"
	"trakr/internal/lifecycle"
)

// service is the one under test, as seen from outside.
type service struct {
	target, admin string
	token         lifecycle.Secret
	appKey, base  string // from its descriptor
	http          *http.Client
}

// answer is what came back. A note names what was wrong with an answer that had the
// right status.
type answer struct {
	status int
	err    error
	note   string
	kind   string
}

// meet reads the service's descriptor.
func meet(ctx context.Context, c Config) (*service, error) {
	s := &service{target: strings.TrimSuffix(c.Target, "/"), admin: strings.TrimSuffix(c.Admin, "/"), token: c.Token,
		http: &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	var d struct {
		Key     string `json:"key"`
		BaseURL string `json:"baseUrl"`
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.target+connect.DescriptorPath, nil)
	if err != nil {
		return nil, errNoService(s.target)
	}
	if a := s.do(req, &d); a.err != nil || a.status != http.StatusOK || d.Key == "" {
		return nil, errNoService(s.target)
	}
	s.appKey, s.base = d.Key, d.BaseURL
	return s, nil
}

func (s *service) do(req *http.Request, into any) answer {
	resp, err := s.http.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	a := answer{status: resp.StatusCode, err: err}
	if err == nil && into != nil && resp.StatusCode/100 == 2 && json.Unmarshal(b, into) != nil {
		a.note = "the answer is not the JSON expected"
	}
	return a
}

// deliver sends one callback.
func (s *service) deliver(ctx context.Context, d delivery) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.target+d.path, bytes.NewReader(d.body))
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	if d.token != "" {
		req.Header.Set("Authorization", "JWT "+d.token)
	}
	return s.do(req, nil)
}

func (s *service) post(ctx context.Context, path string, body, into any) answer {
	b, err := json.Marshal(body)
	if err != nil {
		return answer{err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.admin+path, bytes.NewReader(b))
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.token.Reveal())
	return s.do(req, into)
}

// install delivers an install: the first unsigned, later ones signed with the
// preceding secret and bringing a new one.
func (s *simulation) install(ctx context.Context, w *workspace, again bool) answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := delivery{path: connect.InstalledPath}
	offered := w.secret
	if again {
		offered = rand.Text()
		d.token = mint(tokenClaims(w.clientKey(s.service.appKey), d.path, s.service.base, w.issue()), w.secret)
	}
	d.body = w.payload("installed", s.service.appKey, offered)
	s.api.know(w, offered)
	a := s.service.deliver(ctx, d)
	if a.err == nil && a.status/100 == 2 {
		w.secret, w.last = offered, d
	}
	return a
}

// replay delivers a signed install, then the very same token once more with
// another secret in the body: the second must change nothing.
func (s *simulation) replay(ctx context.Context, w *workspace) answer {
	if a := s.install(ctx, w, true); a.err != nil || a.status/100 != 2 {
		return a
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.last
	d.body = w.payload("installed", s.service.appKey, "replayed-"+rand.Text())
	if a := s.service.deliver(ctx, d); a.err != nil || a.status/100 != 2 {
		return a
	}
	// Had the replayed secret been taken, this one would be refused.
	next := delivery{path: d.path, body: w.payload("installed", s.service.appKey, w.secret)}
	w.issued = w.issue().Add(time.Second) // else it would be the very same token
	next.token = mint(tokenClaims(w.clientKey(s.service.appKey), d.path, s.service.base, w.issued), w.secret)
	a := s.service.deliver(ctx, next)
	if a.err == nil && a.status/100 != 2 {
		a.note = "a replayed delivery changed the stored secret"
	}
	w.last = next
	return a
}

// read finds the tenant once, then reads two fields and compares: those that no
// policy can switch off.
func (s *simulation) read(ctx context.Context, w *workspace) answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := s.find(ctx, w); !ok {
		return a
	}
	var got struct {
		Fields  map[string]*string `json:"fields"`
		EventID string             `json:"event_id"`
	}
	in := map[string]any{"fields": []string{"client_key", "principal_uuid"}, "reason": operation}
	a := s.service.post(ctx, "/v1/tenants/"+w.tenant+"/reads", in, &got)
	if a.err == nil && a.status == http.StatusOK {
		key, id := got.Fields["client_key"], got.Fields["principal_uuid"]
		if len(got.Fields) != 2 || key == nil || *key != w.clientKey(s.service.appKey) || id == nil || *id != w.uuid || got.EventID == "" {
			a.note = "the answer is not what was installed"
		}
	}
	return a
}

// operation is why the simulated part of the product asks.
var operation = map[string]string{"code": string(lifecycle.ServiceOperation)}

// find looks a tenant up, once.
func (s *simulation) find(ctx context.Context, w *workspace) (a answer, ok bool) {
	if w.tenant != "" {
		return answer{}, true
	}
	var found struct {
		TenantID string `json:"tenant_id"`
	}
	a = s.service.post(ctx, "/v1/tenants/lookup", map[string]any{"client_key": w.clientKey(s.service.appKey), "reason": operation}, &found)
	if a.err != nil || a.status/100 != 2 {
		return a, false
	}
	w.tenant = found.TenantID
	return a, true
}

// call gets a token for a tenant, without its secret, and calls Bitbucket with it: one
// signed for that request, or an access token.
func (s *simulation) call(ctx context.Context, w *workspace, signed bool) answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := s.find(ctx, w); !ok {
		return a
	}
	path := "/2.0/workspaces/%7B" + w.uuid + "%7D/hooks"
	ask := map[string]any{"kind": "access_token", "reason": operation}
	if signed {
		ask = map[string]any{"kind": "jwt", "method": http.MethodGet, "path": path, "reason": operation}
	}
	var got struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		EventID     string `json:"event_id"`
	}
	a := s.service.post(ctx, "/v1/tenants/"+w.tenant+"/bitbucket-token", ask, &got)
	if a.err != nil || a.status/100 != 2 {
		return a
	}
	with := "Bearer " + got.AccessToken
	if signed {
		with = "JWT " + got.Token
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.api.base+path, nil)
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Authorization", with)
	if b := s.service.do(req, nil); b.err != nil || b.status != http.StatusOK || got.EventID == "" {
		a.note = "the token was given and is not taken by Bitbucket"
	}
	return a
}

// uninstall delivers a signed uninstall; Bitbucket forgets the secret.
func (s *simulation) uninstall(ctx context.Context, w *workspace) answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := delivery{path: connect.UninstalledPath, body: w.payload("uninstalled", s.service.appKey, "")}
	d.token = mint(tokenClaims(w.clientKey(s.service.appKey), d.path, s.service.base, w.issue()), w.secret)
	s.api.forget(w)
	w.last = d
	return s.service.deliver(ctx, d)
}

// forge delivers one of the attacks seen in the field; each must be refused.
func (s *simulation) forge(ctx context.Context, i int, all []*workspace) answer {
	attacker := invent() // not known to Bitbucket
	victim, other := attacker, attacker
	if len(all) > 0 {
		victim, other = all[i%len(all)], all[(i+1)%len(all)]
	}
	secret, otherSecret := victim.currentSecret(), other.currentSecret()
	app, base, now := s.service.appKey, s.service.base, time.Now()
	install := delivery{path: connect.InstalledPath, body: victim.payload("installed", app, "attackers-secret")}
	uninstall := delivery{path: connect.UninstalledPath, body: victim.payload("uninstalled", app, "")}
	claims := func(w *workspace, path string) connect.Claims { return tokenClaims(w.clientKey(app), path, base, now) }
	kinds := []struct {
		name string
		make func() delivery
	}{
		{"unsigned install over a live tenant", func() delivery { return install }},
		{"install signed with the secret it brings", func() delivery {
			install.token = mint(claims(victim, install.path), "attackers-secret")
			return install
		}},
		{"one tenant's token, another's body", func() delivery {
			uninstall.token = mint(claims(other, uninstall.path), otherSecret)
			if other == victim {
				uninstall.token = mint(claims(attacker, uninstall.path), attacker.secret)
			}
			return uninstall
		}},
		{"alg none", func() delivery {
			uninstall.token = handMade("none", claims(victim, uninstall.path), "")
			return uninstall
		}},
		{"HS512", func() delivery {
			uninstall.token = handMade("HS512", claims(victim, uninstall.path), secret)
			return uninstall
		}},
		{"expired", func() delivery {
			c := claims(victim, uninstall.path)
			c.IssuedAt, c.ExpiresAt = now.Add(-2*time.Hour), now.Add(-time.Hour)
			uninstall.token = mint(c, secret)
			return uninstall
		}},
		{"a token for the other address", func() delivery {
			uninstall.token = mint(claims(victim, install.path), secret)
			return uninstall
		}},
		{"uninstall of a tenant never installed", func() delivery {
			token := mint(claims(attacker, uninstall.path), attacker.secret)
			return delivery{path: uninstall.path, body: attacker.payload("uninstalled", app, ""), token: token}
		}},
		{"install with a secret Bitbucket does not know", func() delivery {
			return delivery{path: install.path, body: attacker.payload("installed", app, attacker.secret)}
		}},
	}
	k := kinds[i%len(kinds)]
	a := s.service.deliver(ctx, k.make())
	a.kind = fmt.Sprintf(" (%s)", k.name)
	return a
}
