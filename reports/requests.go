package reports

import (
	"slices"

	"trakr/policy"
)

// Requests builds the Deletion Request Register: every customer's deletion request,
// how far it has come, when it was due, and the two dates of its erasure.
func Requests(p *policy.Policy, f Facts, version string) Document {
	d := newDocument("requests", "Deletion Request Register", p, f, version)
	d.conclude(requestsInTime(f), requestsProven(f), requestsCarriedOut(f))
	d.Sections = []Section{requestSums(p, f), register(f), holdSection(f)}
	d.Notes = []string{
		"A request is named by its ticket; who asked stands in the ticket, not here. “Tenant” is our own random id; a dash means that no tenant was known.",
		"Due is counted from when the customer asked (GDPR Art. 12(3)). “Gone from live” is when the rows were deleted, “gone from backups” that moment and the backups' declared period. A request that was withdrawn, denied or repeated another deletes nothing.",
		"A request is removed from this register when its period is over; see the retention report.",
		noValueNote,
	}
	return d
}

func requestsInTime(f Facts) Statement {
	s := Statement{Text: "No deletion request is open past its due time", State: Holds, Why: plural(int64(len(f.Requests)), "request", "requests") + " in the register, none overdue."}
	if len(f.Requests) == 0 {
		s.Why = "no request was entered."
	}
	late := 0
	for _, r := range f.Requests {
		if r.Overdue {
			late++
		}
	}
	switch {
	case late > 0:
		s.State, s.Why = Fails, plural(int64(late), "request is", "requests are")+" overdue."
	case f.RequestsLeftOut:
		s.State, s.Why = CannotTell, "there are more requests than this register lists."
	}
	return s
}

func requestsProven(f Facts) Statement {
	s := Statement{Text: "Every completed request has its certificate", State: Holds}
	done := int64(0)
	for _, r := range f.Requests {
		if r.State != "completed" && r.State != "completed_nothing_held" {
			continue
		}
		if done++; r.CertificateID == "" {
			s.State, s.Why = Fails, "the request "+r.ID+" has none."
			return s
		}
	}
	s.Why = plural(done, "request is", "requests are") + " completed."
	return s
}

// requestsCarriedOut: the job that moves requests on, and the sweep that finishes
// erasures, are alive.
func requestsCarriedOut(f Facts) Statement {
	s := Statement{Text: "What carries requests out runs in time", State: CannotTell, Why: "no running service has scheduled it."}
	for _, job := range []string{"deletion requests", "sweep erasures"} {
		i := slices.IndexFunc(f.Controls, func(c Control) bool { return c.ID == JobControl+job })
		switch {
		case i < 0:
			s.State, s.Why = CannotTell, "no running service has scheduled the job “"+job+"”."
			return s
		case f.Controls[i].State != "pass":
			s.State, s.Why = CannotTell, "the scheduled job “"+job+"” is overdue."
			return s
		}
	}
	s.State, s.Why = Holds, "the jobs “deletion requests” and “sweep erasures” succeeded within twice their intervals."
	return s
}

func requestSums(p *policy.Policy, f Facts) Section {
	var open, overdue, done, nothing, late int64
	for _, r := range f.Requests {
		switch {
		case r.Open:
			open++
		case r.State == "completed":
			done++
		case r.State == "completed_nothing_held":
			nothing++
		}
		if r.Overdue {
			overdue++
		}
		if !r.Open && r.MovedAt.After(r.Due) {
			late++
		}
	}
	return Section{ID: "sums", Title: "Sums", Columns: []Column{{Key: "measure", Title: "Measure"}, {Key: "value", Title: "Value"}},
		Rows: [][]string{{"requests", count(int64(len(f.Requests)))}, {"open", count(open)}, {"overdue", count(overdue)}, {"completed", count(done)},
			{"completed, nothing held", count(nothing)}, {"ended after their due time", count(late)},
			{"due after", p.DeletionRequests.Due.Human()}, {"cooling-off", p.DeletionRequests.CoolingOff.Human()}, {"backups kept for", p.BackupWindow().Human()}}}
}

func register(f Facts) Section {
	s := Section{ID: "register", Title: "Register", Intro: "Newest first.", Columns: []Column{{Key: "request", Title: "Request"}, {Key: "ticket", Title: "Ticket"}, {Key: "tenant_id", Title: "Tenant"},
		{Key: "state", Title: "State"}, {Key: "since", Title: "Since"}, {Key: "submitted_time", Title: "Asked"}, {Key: "received_time", Title: "Received"}, {Key: "expected_completion_time", Title: "Due"},
		{Key: "overdue", Title: "Overdue"}, {Key: "deleted_live_at", Title: "Gone from live"}, {Key: "backups_clear_after", Title: "Gone from backups"}, {Key: "certificate_id", Title: "Certificate"}}}
	for _, r := range f.Requests {
		late := "no"
		if r.Overdue {
			late = "OVERDUE"
		}
		s.Rows = append(s.Rows, []string{r.ID, r.Ticket, orDash(r.TenantID), r.State, stamp(&r.MovedAt), stamp(&r.Submitted), stamp(&r.Received), stamp(&r.Due), late,
			stamp(r.DeletedAt), stamp(r.BackupsClear), orDash(r.CertificateID)})
	}
	return s
}

// holdSection lists the legal holds in force.
func holdSection(f Facts) Section {
	s := Section{ID: "holds", Title: "Legal holds in force", Intro: "While one is in force nothing of its tenant is deleted, whatever asks for it.", Columns: []Column{{Key: "hold", Title: "Hold"}, {Key: "tenant_id", Title: "Tenant"},
		{Key: "ground", Title: "Ground"}, {Key: "ticket", Title: "Ticket"}, {Key: "placed_at", Title: "Placed"}, {Key: "until", Title: "Until"}}}
	for _, h := range f.Holds {
		s.Rows = append(s.Rows, []string{h.ID, h.TenantID, h.Ground, h.Ticket, stamp(&h.PlacedAt), stamp(&h.Until)})
	}
	return s
}
