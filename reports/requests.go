package reports

import (
	"slices"

	"trakr/internal/check"
	"trakr/policy"
)

// Requests builds the Deletion Request Register: every customer's deletion request, its
// state, when it was due, and the two dates of its erasure.
func Requests(p *policy.Policy, f Facts, version string) Document {
	d := newDocument(p, f, version, requestsInTime(f), requestsCertified(f), requestJobsRun(f))
	d.Kind, d.Title = "requests", "Deletion Request Register"
	d.Sections = []Section{requestSums(p, f), register(f), holdSection(f)}
	d.Notes = []string{
		"A request is identified by its ticket; who asked is recorded in the ticket, not here. “Tenant” is our own random id; a " +
			"dash means that no tenant was known.",
		"The due time is counted from when the customer asked (GDPR Art. 12(3)). “Deleted from live stores” is when the rows were " +
			"deleted; " +
			"“deleted from backups” is that moment plus the backups' declared period. A request that was withdrawn, denied or " +
			"repeated another deletes nothing.",
		"A request is removed from this register when its period is over; see the retention report.",
		noValueNote,
	}
	return d
}

func requestsInTime(f Facts) check.Result {
	r := check.Result{
		ID: "requests.in-time", Title: "No deletion request is open past its due time", State: check.Pass,
		Evidence: plural(int64(len(f.Requests)), "request", "requests") + " in the register, none overdue.",
	}
	if len(f.Requests) == 0 {
		r.Evidence = "no request was entered."
	}
	late := 0
	for _, x := range f.Requests {
		if x.Overdue {
			late++
		}
	}
	switch {
	case late > 0:
		r.State, r.Evidence = check.Fail, plural(int64(late), "request is", "requests are")+" overdue."
	case f.RequestsLeftOut:
		r.State, r.Evidence = check.Unknown, "there are more requests than this register lists."
	}
	return r
}

func requestsCertified(f Facts) check.Result {
	r := check.Result{ID: "requests.certified", Title: "Every completed request has its certificate", State: check.Pass}
	done := int64(0)
	for _, x := range f.Requests {
		if x.State != "completed" && x.State != "completed_nothing_held" {
			continue
		}
		if done++; x.CertificateID == "" {
			r.State, r.Evidence = check.Fail, "the request "+x.ID+" has none."
			return r
		}
	}
	r.Evidence = plural(done, "request is", "requests are") + " completed."
	return r
}

// requestJobsRun checks the job that advances requests and the sweep that finishes erasures.
func requestJobsRun(f Facts) check.Result {
	r := check.Result{ID: "requests.jobs", Title: "The jobs that carry out requests run in time", State: check.Unknown}
	for _, job := range []string{"deletion requests", "sweep erasures"} {
		i := slices.IndexFunc(f.Jobs, func(j JobFacts) bool { return j.Name == job })
		switch {
		case i < 0:
			r.Evidence = "no running service has scheduled the job “" + job + "”."
			return r
		case f.Jobs[i].State != check.Pass:
			r.Evidence = "the scheduled job “" + job + "” is overdue."
			return r
		}
	}
	r.State, r.Evidence = check.Pass, "the jobs “deletion requests” and “sweep erasures” succeeded within twice their intervals."
	return r
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
	return Section{ID: "sums", Title: "Sums", Columns: measures, Rows: [][]string{
		{"requests", count(int64(len(f.Requests)))}, {"open", count(open)}, {"overdue", count(overdue)},
		{"completed", count(done)}, {"completed, nothing stored", count(nothing)}, {"ended after their due time", count(late)},
		{"due after", p.DeletionRequests.Due.Human()}, {"cooling-off", p.DeletionRequests.CoolingOff.Human()},
		{"backups kept for", p.BackupWindow().Human()},
	}}
}

// measures are the columns of a section of named numbers.
var measures = []Column{{Key: "measure", Title: "Measure"}, {Key: "value", Title: "Value"}}

func register(f Facts) Section {
	s := Section{ID: "register", Title: "Register", Intro: "Newest first.", Columns: []Column{
		{Key: "request", Title: "Request"}, {Key: "ticket", Title: "Ticket"}, {Key: "tenant_id", Title: "Tenant"},
		{Key: "state", Title: "State"}, {Key: "since", Title: "Since"}, {Key: "submitted_time", Title: "Asked"},
		{Key: "received_time", Title: "Received"}, {Key: "expected_completion_time", Title: "Due"}, {Key: "overdue", Title: "Overdue"},
		{Key: "deleted_live_at", Title: "Deleted from live stores"}, {Key: "backups_clear_after", Title: "Deleted from backups"},
		{Key: "certificate_id", Title: "Certificate"},
	}}
	for _, r := range f.Requests {
		late := "no"
		if r.Overdue {
			late = "OVERDUE"
		}
		s.Rows = append(s.Rows, []string{
			r.ID, r.Ticket, orDash(r.TenantID), r.State, stamp(&r.MovedAt), stamp(&r.Submitted), stamp(&r.Received), stamp(&r.Due),
			late, stamp(r.DeletedAt), stamp(r.BackupsClear), orDash(r.CertificateID),
		})
	}
	return s
}

// holdSection lists the legal holds in force.
func holdSection(f Facts) Section {
	s := Section{
		ID: "holds", Title: "Legal holds in force",
		Intro: "While a hold is in force, nothing of its tenant is deleted, for whatever reason.",
		Columns: []Column{
			{Key: "hold", Title: "Hold"}, {Key: "tenant_id", Title: "Tenant"}, {Key: "ground", Title: "Ground"},
			{Key: "ticket", Title: "Ticket"}, {Key: "placed_at", Title: "Placed"}, {Key: "until", Title: "Until"},
		},
	}
	for _, h := range f.Holds {
		s.Rows = append(s.Rows, []string{h.ID, h.TenantID, h.Ground, h.Ticket, stamp(&h.PlacedAt), stamp(&h.Until)})
	}
	return s
}
