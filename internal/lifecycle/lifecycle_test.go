package lifecycle_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"trakr/internal/lifecycle"
)

func TestSecretShowsItselfNowhere(t *testing.T) {
	s := lifecycle.NewSecret("marker-value")
	holder := struct {
		S lifecycle.Secret
		V lifecycle.Values
	}{s, lifecycle.Values{lifecycle.Username: s}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, s, &s, holder)
	}
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "s", s, "holder", holder, slog.Group("g", "s", s))
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "s", s, "holder", holder)
	for _, v := range []any{s, &s, holder, map[lifecycle.Field]lifecycle.Secret{lifecycle.Username: s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	x, err := xml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(x)
	fmt.Fprint(&out, errors.Join(fmt.Errorf("wrapped: %v", s)))
	if strings.Contains(out.String(), "marker") || strings.Contains(out.String(), fmt.Sprintf("%x", "marker")) {
		t.Errorf("the value is shown:\n%s", out.String())
	}
	if s.Reveal() != "marker-value" {
		t.Error("Reveal must return it")
	}
}

func TestAnAccessSaysWhoAndWhy(t *testing.T) {
	staff := lifecycle.Caller{Type: lifecycle.ActorStaff, ID: "token:1", Role: lifecycle.RoleSupport}
	service := lifecycle.Caller{Type: lifecycle.ActorService, ID: "token:2", Role: lifecycle.RoleService}
	code := lifecycle.CustomerInitiatedSupport
	for name, c := range map[string]struct {
		a          lifecycle.Access
		value, act bool // may touch values; may act without them
	}{
		"person with ticket":    {lifecycle.Access{Caller: staff, Reason: lifecycle.Reason{Code: code, Ref: "SUP-1"}}, true, true},
		"person without ticket": {lifecycle.Access{Caller: staff, Reason: lifecycle.Reason{Code: code}}, false, true},
		"service":               {lifecycle.Access{Caller: service, Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}}, true, true},
		"no code":               {lifecycle.Access{Caller: service}, false, false},
		"invented code":         {lifecycle.Access{Caller: service, Reason: lifecycle.Reason{Code: "because"}}, false, false},
		"e-mail as ticket":      {lifecycle.Access{Caller: staff, Reason: lifecycle.Reason{Code: code, Ref: "a@example.com"}}, false, false},
		"prose as ticket":       {lifecycle.Access{Caller: staff, Reason: lifecycle.Reason{Code: code, Ref: "she asked"}}, false, false},
		"nobody":                {lifecycle.Access{Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}}, false, false},
	} {
		if err := c.a.Check(); (err == nil) != c.value {
			t.Errorf("%s: Check: %v", name, err)
		}
		if err := c.a.CheckReason(); (err == nil) != c.act {
			t.Errorf("%s: CheckReason: %v", name, err)
		}
		if r := c.a.Recordable(); strings.ContainsAny(string(r.Code)+r.Ref, "@ ") || r.Code == "because" {
			t.Errorf("%s: %+v would be recorded", name, r)
		}
	}
}

func TestFaultsKeepTheirKindThroughWrapping(t *testing.T) {
	err := fmt.Errorf("outer: %w", lifecycle.Fail(lifecycle.TenantErased, "gone", lifecycle.Because("x"), lifecycle.Cause(errors.New("inner"))))
	if !errors.Is(err, lifecycle.TenantErased) || errors.Is(err, lifecycle.TenantUnknown) {
		t.Error("the kind is lost")
	}
	if f := lifecycle.AsFault(err); f.Kind != lifecycle.TenantErased || f.Reason != "x" {
		t.Errorf("%+v", f)
	}
	if f := lifecycle.AsFault(errors.New("anything")); f.Kind != lifecycle.Internal || f.Detail != "" {
		t.Errorf("an unknown error must be internal without a detail: %+v", f)
	}
}

func TestTenantIDsAreReadStrictlyAndNeverRepeated(t *testing.T) {
	id := lifecycle.NewTenantID()
	if got, err := lifecycle.ParseTenantID(id.String()); err != nil || got != id {
		t.Error(err)
	}
	for _, bad := range []string{"", "marker", "{" + id.String() + "}", strings.Repeat("marker", 6), "urn:uuid:" + id.String()} {
		if _, err := lifecycle.ParseTenantID(bad); err == nil || strings.Contains(err.Error(), "marker") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
