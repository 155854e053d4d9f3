package tokens_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/storetest"
	"trakr/internal/store/tokens"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

var operator = lifecycle.Access{Caller: lifecycle.Caller{Type: lifecycle.ActorOperator, ID: "uid:1", Role: lifecycle.RoleOperator},
	Reason: lifecycle.Reason{Code: lifecycle.ServiceOperation}}

func TestARevokedTokenEndsHereAtOnceAndElsewhereWithinASecond(t *testing.T) {
	e := storetest.New(t)
	here, elsewhere := tokens.New(e.DB, e.Clock.Now), tokens.New(e.DB, e.Clock.Now)
	plain, token, err := here.Create(t.Context(), operator, lifecycle.RoleService, "test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*tokens.Store{here, elsewhere, here, elsewhere} {
		if got, err := s.Authenticate(t.Context(), plain); err != nil || got.ID != token.ID {
			t.Fatal(err)
		}
	}
	if err := here.Revoke(t.Context(), operator, token.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Authenticate(t.Context(), plain); !errors.Is(err, lifecycle.Unauthenticated) {
		t.Errorf("where it was revoked: %v", err)
	}
	e.Clock.Add(time.Second)
	if _, err := elsewhere.Authenticate(t.Context(), plain); !errors.Is(err, lifecycle.Unauthenticated) {
		t.Errorf("elsewhere, a second later: %v", err)
	}
	// A token that was never good is not remembered as one, and a known one's
	// text with another ending is another token.
	if _, err := here.Authenticate(t.Context(), lifecycle.NewSecret(plain.Reveal()+"x")); !errors.Is(err, lifecycle.Unauthenticated) {
		t.Errorf("another text: %v", err)
	}
}
