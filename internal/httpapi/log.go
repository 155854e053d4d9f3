package httpapi

import (
	"context"
	"net/http"
	"time"

	"trakr/internal/lifecycle"
	"trakr/internal/store/audit"
)

// logRoutes are the audit as a log: its newest checkpoint and the proofs that
// hang on it.
func (a *admin) logRoutes() {
	type checkpointOut struct {
		Checkpoint string    `json:"checkpoint" doc:"signed tree head, C2SP tlog-checkpoint"`
		Key        string    `json:"key" doc:"the log's public key, C2SP signed-note; keep it apart from the checkpoints"`
		Size       int64     `json:"size" doc:"events that have a position"`
		SignedAt   time.Time `json:"signed_at"`
	}
	add(a, http.MethodGet, "/v1/audit/checkpoint", "The newest signed checkpoint of the audit", everyone,
		func(ctx context.Context, _ *struct{}) (*body[checkpointOut], error) {
			cp, err := a.Audit.Latest(ctx)
			if err != nil {
				return nil, err
			}
			return &body[checkpointOut]{checkpointOut{string(cp.Note), a.Audit.VerifierKey(), cp.Size, cp.SignedAt}}, nil
		})
	type proofIn struct {
		EventID    string `query:"event_id" required:"true" maxLength:"36" doc:"the event to prove"`
		ReasonCode string `query:"reason_code" maxLength:"64"`
		ReasonRef  string `query:"reason_ref" maxLength:"128"`
	}
	add(a, http.MethodGet, "/v1/audit/proof", "One event's record and the proof that it stands in the log; the reading is audited", reviews,
		func(ctx context.Context, in *proofIn) (*body[audit.Proof], error) {
			p, err := a.Audit.Prove(ctx, access(ctx, reason{in.ReasonCode, in.ReasonRef}, lifecycle.ReviewerExport), in.EventID)
			if err != nil {
				return nil, err
			}
			return &body[audit.Proof]{p}, nil
		})
	type growthIn struct {
		From int64 `query:"from" required:"true" minimum:"0" doc:"size of the older checkpoint"`
	}
	add(a, http.MethodGet, "/v1/audit/consistency", "The proof that the log only grew since an older checkpoint", everyone,
		func(ctx context.Context, in *growthIn) (*body[audit.Consistency], error) {
			c, err := a.Audit.ProveGrowth(ctx, in.From)
			if err != nil {
				return nil, err
			}
			return &body[audit.Consistency]{c}, nil
		})
}
