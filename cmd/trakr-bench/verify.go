package main

import (
	"context"
	"fmt"

	"trakr/internal/store/audit"
)

const verified = "verified"

// verify measures the verification of a whole log. No gate bounds it; COPY of the
// columns is shown beside it as the cost of reading them.
func (b *bench) verify(ctx context.Context) error {
	b.say.begin("verify")
	d, _, err := b.sequenced(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	r, err := b.alternate(ctx, side{verified, verifyAll(d)}, side{copied, copyOut(d)})
	if err != nil {
		return err
	}
	b.report.compare(subject{"verify", 0, "events"}, series{verified, r[0]}, series{copied, r[1]})
	return nil
}

// verifyAll fails on any fault of the log: its events are generated, and a verifier
// that has nothing to compare would be quick. The state of the controls is of no
// matter here: a copied database lacks what was granted on its template.
func verifyAll(d *database) round {
	return func(ctx context.Context) (figure, error) {
		return rate(func() (int64, error) {
			v, err := d.log.Verify(ctx, audit.VerifyOptions{})
			if err == nil && (len(v.Faults) > 0 || v.Waiting > 0) {
				err = fmt.Errorf("the log does not verify: %v, %d waiting", v.Counts, v.Waiting)
			}
			return v.Events, err
		})
	}
}
