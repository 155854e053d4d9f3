// Package connect speaks Atlassian Connect as Bitbucket Cloud does: the
// descriptor, the token that signs a callback (JWT, HS256) with its query string
// hash, and the callback's payload reduced to an allow-list.
//
// It promises that nothing outside the allow-list survives decoding, that no
// error repeats what was submitted, and that everything which can be refused
// without a secret is refused before one is asked for. It reads no store and
// makes no call.
package connect

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"trakr/policy"
)

// Paths of the public listener.
const (
	DescriptorPath  = "/atlassian-connect.json"
	InstalledPath   = "/connect/installed"
	UninstalledPath = "/connect/uninstalled"
)

type descriptor struct {
	Key            string            `json:"key"`
	Name           string            `json:"name"`
	Description    string            `json:"description"`
	BaseURL        string            `json:"baseUrl"`
	Vendor         vendor            `json:"vendor"`
	Links          map[string]string `json:"links"`
	Authentication map[string]string `json:"authentication"`
	Lifecycle      map[string]string `json:"lifecycle"`
	Scopes         []string          `json:"scopes"`
	Contexts       []string          `json:"contexts"`
	Modules        struct{}          `json:"modules"`
	ForgeAppID     string            `json:"forgeAppId,omitempty"`
}

type vendor struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Descriptor returns atlassian-connect.json for the policy's app at baseURL. It
// declares installed and uninstalled only: nothing shows that Bitbucket sends
// enabled or disabled.
func Descriptor(p *policy.Policy, baseURL string) ([]byte, error) {
	if err := checkBaseURL(baseURL); err != nil {
		return nil, err
	}
	d := descriptor{
		Key: p.App.Key, Name: p.App.Name, Description: p.App.Description, BaseURL: baseURL,
		Vendor:         vendor{p.Vendor.Name, p.Vendor.URL},
		Links:          map[string]string{"self": baseURL + DescriptorPath, "homepage": p.App.Homepage},
		Authentication: map[string]string{"type": "jwt"},
		Lifecycle:      map[string]string{"installed": InstalledPath, "uninstalled": UninstalledPath},
		Contexts:       p.App.Contexts, ForgeAppID: p.App.ForgeAppID,
	}
	for _, s := range p.App.Scopes {
		d.Scopes = append(d.Scopes, s.Name)
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the descriptor: %w", err)
	}
	return append(b, '\n'), nil
}

// Scopes reads in a descriptor which scopes it asks for.
func Scopes(descriptorJSON []byte) ([]string, error) {
	var d descriptor
	if err := json.Unmarshal(descriptorJSON, &d); err != nil {
		return nil, fmt.Errorf("reading the descriptor: %w", err)
	}
	return append([]string{}, d.Scopes...), nil
}

// checkBaseURL: Bitbucket calls https only; http is for a simulator on this machine.
func checkBaseURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(s, "/") {
		return errors.New("the base URL must be absolute, without user, query, fragment or trailing slash")
	}
	if u.Scheme == "https" {
		return nil
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if u.Scheme == "http" && (u.Hostname() == "localhost" || (err == nil && ip.IsLoopback())) {
		return nil
	}
	return errors.New("the base URL must be https (http only on this machine)")
}
