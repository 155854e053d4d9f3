package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"trakr/internal/lifecycle"
)

// The framework's own refusals (a body that does not fit its schema) become our
// problem documents. It offers this one hook, for the whole process.
func init() {
	huma.NewErrorWithContext = func(hc huma.Context, status int, _ string, errs ...error) huma.StatusError {
		id := ""
		if hc != nil {
			id = requestID(hc.Context())
		}
		return problemOf(frameworkFault(status, errs), id)
	}
	huma.NewError = func(status int, _ string, errs ...error) huma.StatusError {
		return problemOf(frameworkFault(status, errs), "")
	}
}

// asPointer turns the framework's name of a place into a JSON Pointer (RFC 6901).
var asPointer = strings.NewReplacer("body.", "", "query.", "", "path.", "", "header.", "", "[", "/", "]", "", ".", "/")

// frameworkFault names the places and what is expected there, and repeats
// neither values nor keys that were submitted.
func frameworkFault(status int, errs []error) error {
	var at []lifecycle.Option
	for _, err := range errs {
		var d *huma.ErrorDetail
		if !errors.As(err, &d) {
			continue
		}
		place := "/" + asPointer.Replace(d.Location)
		if d.Location == "body" {
			place = ""
		}
		text, _, _ := strings.Cut(d.Message, ":") // what follows a colon can quote
		if d.Message == validation.MsgUnexpectedProperty || strings.Contains(d.Message, "unknown query") {
			place, text = place[:max(0, strings.LastIndex(place, "/"))], "holds a name that is not expected here"
		}
		at = append(at, lifecycle.At(place, text))
	}
	switch {
	case status == http.StatusRequestEntityTooLarge:
		return lifecycle.Fail(lifecycle.PayloadTooLarge, "A request has at most 65536 bytes.")
	case status >= http.StatusInternalServerError:
		return lifecycle.Internal
	case status == http.StatusNotFound:
		return lifecycle.Fail(lifecycle.NotFound, "There is nothing at this address.")
	}
	return lifecycle.Fail(lifecycle.RequestInvalid, "The request does not have the form that /openapi.json describes.", at...)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client disconnected
}
