package evidence

import (
	"context"
	"fmt"
	"sync"
	"time"

	"trakr/policy"
	"trakr/reports"
)

// publicAge is how old the statement shown to customers may be: judging it counts
// tables, and anyone may ask.
const publicAge = 5 * time.Minute

// PublicStatement is the security statement for customers, judged anew every few
// minutes, however often it is asked for.
type PublicStatement struct {
	Reporter *Reporter

	mu   sync.Mutex
	last *reports.SecurityStatement
	at   time.Time
}

// Get returns sentences, states and times. An old one is never given out in place of one
// that cannot be made.
func (s *PublicStatement) Get(ctx context.Context) (reports.SecurityStatement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.Reporter.Now(); s.last == nil || now.Sub(s.at) >= publicAge || now.Before(s.at) {
		s.last = nil
		// Whoever asks may go away; what is judged is for the next one too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		f, err := s.Reporter.Facts(ctx, time.Time{})
		if err != nil {
			return reports.SecurityStatement{}, fmt.Errorf("judging the security statement: %w", err)
		}
		made := reports.SecurityStatementOf(s.Reporter.Policy, s.Reporter.Statement, f, "").Public()
		s.last, s.at = &made, now
	}
	return *s.last, nil
}

// Scopes tells, of each scope that the descriptor asks for, which call needs it.
func Scopes(asked []string, p *policy.Policy) []reports.ScopeFacts {
	out := []reports.ScopeFacts{}
	for _, name := range asked {
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
