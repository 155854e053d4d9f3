package evidence

import (
	"context"
	"fmt"
	"sync"
	"time"

	"trakr/policy"
	"trakr/reports"
)

// publicAge is how old the statement shown to customers may be: its checks count tables,
// and anyone may request it.
const publicAge = 5 * time.Minute

// PublicStatement is the security statement for customers. Its checks run at most every
// few minutes, however often it is requested.
type PublicStatement struct {
	Reporter *Reporter

	mu   sync.Mutex // guards last and at
	last *reports.SecurityStatement
	at   time.Time
}

// Get returns sentences, states and times. When the checks cannot run it returns an error,
// never an old statement.
func (s *PublicStatement) Get(ctx context.Context) (reports.SecurityStatement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.Reporter.Now(); s.last == nil || now.Sub(s.at) >= publicAge || now.Before(s.at) {
		s.last = nil
		// The result is also for later requests, so it does not end with this one.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		f, err := s.Reporter.Facts(ctx, time.Time{})
		if err != nil {
			return reports.SecurityStatement{}, fmt.Errorf("checking the security statement: %w", err)
		}
		made := reports.SecurityStatementOf(s.Reporter.Policy, s.Reporter.Statement, f, "").Public()
		s.last, s.at = &made, now
	}
	return *s.last, nil
}

// Scopes returns, for each scope that the descriptor requests, the call that needs it.
func Scopes(requested []string, p *policy.Policy) []reports.ScopeFacts {
	out := []reports.ScopeFacts{}
	for _, name := range requested {
		x := reports.ScopeFacts{Name: name}
		switch name {
		case "account":
			x.NeededBy = "Bitbucket's lifecycle callbacks"
		case p.App.Proof.Scope:
			x.NeededBy = "GET " + p.App.Proof.Resource
		}
		out = append(out, x)
	}
	return out
}
