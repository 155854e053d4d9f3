package auditfile

import (
	"bytes"
	"strconv"
	"time"
)

// OCSF 1.8 classes. Their category is the class divided by a thousand.
const (
	datastoreActivity    = 6005
	applicationLifecycle = 6002
	entityManagement     = 3004
)

// class returns the OCSF class and activity of one of our actions. Activity 99,
// Other, has the action's name.
func class(action, detail []byte) (class, activity int64, name string) {
	switch string(action) {
	case `"tenant.lookup"`, `"sweep.run"`:
		return datastoreActivity, 4, "Query"
	case `"tenant.read"`, `"report.issue"`, `"audit.export"`, `"audit.read"`:
		return datastoreActivity, 1, "Read"
	case `"tenant.update"`:
		return datastoreActivity, 2, "Update"
	case `"audit.expire"`, `"retention.remove"`:
		return datastoreActivity, 7, "Delete"
	case `"tenant.install"`:
		return applicationLifecycle, 1, "Install"
	case `"tenant.erase"`:
		if string(detail) == `"uninstall"` {
			return applicationLifecycle, 2, "Remove"
		}
		return datastoreActivity, 7, "Delete"
	case `"token.create"`:
		return entityManagement, 1, "Create"
	case `"token.revoke"`:
		return entityManagement, 9, "Disable"
	case `"hold.place"`:
		return entityManagement, 1, "Create"
	case `"hold.release"`:
		return entityManagement, 9, "Disable"
	case `"request.move"`:
		if string(detail) == `"received"` {
			return entityManagement, 1, "Create"
		}
		return entityManagement, 3, "Update"
	}
	if entity(action) != "" {
		return entityManagement, 99, ""
	}
	return datastoreActivity, 99, ""
}

// entity names what an action of Entity Management manages; its uid is the event's
// correlation id.
func entity(action []byte) string {
	switch {
	case bytes.HasPrefix(action, []byte(`"token.`)):
		return "API token"
	case bytes.HasPrefix(action, []byte(`"request.`)):
		return "Deletion request"
	case bytes.HasPrefix(action, []byte(`"hold.`)):
		return "Legal hold"
	}
	return ""
}

// userType is the actor's user.type_id.
func userType(actorType []byte) byte {
	switch string(actorType) {
	case `"staff"`:
		return '1' // User
	case `"operator"`:
		return '2' // Admin
	case `"scheduler"`:
		return '3' // System
	case `"bitbucket"`, `"forge"`, `"service"`:
		return '4' // Service
	}
	return '0' // Unknown
}

// appendOCSF appends an event of OCSF 1.8. Members of the record are copied as they
// are, so a value is escaped as in the record. What OCSF has no attribute for is in
// unmapped; raw_data comes last and has the exact record.
func appendOCSF(dst []byte, e Event) []byte {
	r := parse(e.Record)
	uid, activity, name := class(r[action], r[statusDetail])
	text := func(key string, v []byte) {
		if v != nil {
			dst = append(append(dst, key...), v...)
		}
	}
	number := func(key string, n int64) { dst = strconv.AppendInt(append(dst, key...), n, 10) }

	dst = appendHead(append(dst, `{"unmapped":`...), e)
	text(`,"reason_code":`, r[reasonCode])
	text(`,"reason_ref":`, r[reasonRef])
	text(`,"field_names":`, r[fieldNames])
	text(`,"dropped_names":`, r[droppedNames])
	text(`,"subject_digest":`, r[subjectDigest])
	text(`,"trace_id":`, r[traceID])
	if uid == applicationLifecycle { // which has neither of these two
		text(`,"request_id":`, r[requestID])
		text(`,"recipient":`, r[recipient])
	}
	number(`},"category_uid":`, uid/1000)
	number(`,"class_uid":`, uid)
	number(`,"activity_id":`, activity)
	if name != "" {
		dst = append(append(append(dst, `,"activity_name":"`...), name...), '"')
	} else {
		text(`,"activity_name":`, r[action])
	}
	number(`,"type_uid":`, uid*100+activity)
	succeeded := string(r[outcome]) == `"success"`
	if succeeded {
		dst = append(dst, `,"severity_id":1,"status_id":1`...) // Informational; Success
	} else {
		dst = append(dst, `,"severity_id":2,"status_id":2`...) // Low; Failure
	}
	text(`,"status_code":`, r[outcome])
	text(`,"status_detail":`, r[statusDetail])
	number(`,"time":`, milliseconds(r[occurredAt]))
	dst = append(dst, `,"metadata":{"version":"1.8.0","product":{"name":"Trakr","vendor_name":"Trakr"},"log_name":"audit"`...)
	if uid == applicationLifecycle {
		dst = append(dst, `,"profiles":["host"]`...) // which gives it an actor
	}
	number(`,"sequence":`, e.Index)
	text(`,"uid":`, r[eventID])
	text(`,"event_code":`, r[action])
	text(`,"tenant_uid":`, r[tenantID])
	text(`,"correlation_uid":`, r[correlationID])
	if v := r[schemaVersion]; v != nil {
		dst = append(append(append(dst, `,"log_version":"`...), v...), '"')
	}
	dst = append(append(dst, `},"actor":{"user":{"type_id":`...), userType(r[actorType]))
	text(`,"type":`, r[actorType])
	text(`,"uid":`, r[actorID])
	dst = append(dst, `}}`...)
	switch uid {
	case datastoreActivity:
		dst = append(dst, `,"database":{"name":"trakr","type_id":1}`...) // Relational
		if v := r[recipient]; v != nil {
			dst = append(append(append(dst, `,"dst_endpoint":{"hostname":`...), v...), '}')
		}
	case applicationLifecycle:
		dst = append(dst, `,"app":{"name":"Trakr","vendor_name":"Trakr"}`...)
	case entityManagement:
		name := entity(r[action])
		dst = append(append(append(append(append(dst, `,"entity":{"name":"`...), name...), `","type":"`...), name...), '"')
		text(`,"uid":`, r[correlationID])
		dst = append(dst, '}')
	}
	if uid != applicationLifecycle {
		// Addresses are not kept: the source is known by the kind of caller.
		dst = append(dst, `,"src_endpoint":{"name":`...)
		if r[actorType] == nil {
			dst = append(dst, `"unknown"`...)
		}
		text("", r[actorType])
		dst = append(dst, '}')
		if v := r[requestID]; v != nil {
			dst = append(append(append(dst, `,"http_request":{"uid":`...), v...), '}')
		}
	}
	dst = appendQuoted(append(dst, rawData...), e.Record)
	return append(dst, '}')
}

const rawData = `,"raw_data":`

// milliseconds reads a record's time, "2006-01-02T15:04:05.000000Z" in quotes.
func milliseconds(v []byte) int64 {
	if len(v) != 29 {
		return 0
	}
	n := func(from, to int) (n int) {
		for _, c := range v[from:to] {
			n = n*10 + int(c-'0')
		}
		return n
	}
	return time.Date(n(1, 5), time.Month(n(6, 8)), n(9, 11), n(12, 14), n(15, 17), n(18, 20), n(21, 27)*1000, time.UTC).UnixMilli()
}
