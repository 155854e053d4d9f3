package certificate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"trakr/internal/proof/jcs"
)

// domain keeps a certificate's signature apart from every other one of the key: no
// signed note holds a zero byte.
const domain = "trakr/certificate-of-deletion/v1\x00"

// manifest returns the digest of every leaf that is signed.
func manifest(leaves map[string]string) map[string]string {
	m := make(map[string]string, len(leaves))
	for p, v := range leaves {
		if p == "/signature" || p == "/manifest" || strings.HasPrefix(p, "/manifest/") {
			continue
		}
		sum := sha256.Sum256([]byte(v))
		m[p] = hex.EncodeToString(sum[:])
	}
	return m
}

// message returns the bytes that are signed. The names are ASCII, whose order is
// that of RFC 8785.
func message(manifest map[string]string) []byte {
	b := append([]byte(domain), '{')
	for i, p := range slices.Sorted(maps.Keys(manifest)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(jcs.AppendString(b, p), ':')
		b = jcs.AppendString(b, manifest[p])
	}
	return append(b, '}')
}

// differences names what in a file is not as it was signed. Elements of an array
// are compared as wholes first, so that one that was taken out is named once and
// not by all that moved up.
func differences(signed, file map[string]string) []Finding {
	was, is := split(signed), split(file)
	var out []Finding
	for _, array := range union(was.arrays, is.arrays) {
		out = append(out, compareArrays(array, was.arrays[array], is.arrays[array])...)
	}
	for p := range was.arrays {
		delete(is.leaves, p) // the "[]" of an array that lost everything
	}
	for p := range is.arrays {
		delete(was.leaves, p)
	}
	return append(compareLeaves("", was.leaves, is.leaves), out...)
}

// parts are a manifest's leaves outside arrays, and the elements of its outermost
// arrays, each with its leaves by the rest of their pointers.
type parts struct {
	leaves map[string]string
	arrays map[string]map[int]map[string]string
}

func split(m map[string]string) parts {
	out := parts{map[string]string{}, map[string]map[int]map[string]string{}}
	for p, digest := range m {
		array, index, rest, ok := element(p)
		if !ok {
			out.leaves[p] = digest
			continue
		}
		if out.arrays[array] == nil {
			out.arrays[array] = map[int]map[string]string{}
		}
		if out.arrays[array][index] == nil {
			out.arrays[array][index] = map[string]string{}
		}
		out.arrays[array][index][rest] = digest
	}
	return out
}

// element takes a pointer apart at its first number.
func element(pointer string) (array string, index int, rest string, ok bool) {
	at := 0
	for segment := range strings.SplitSeq(pointer, "/") {
		end := at + len(segment)
		if n, err := strconv.Atoi(segment); err == nil && n >= 0 && strconv.Itoa(n) == segment && at > 0 {
			return pointer[:at-1], n, pointer[end:], true
		}
		at = end + 1
	}
	return "", 0, "", false
}

func compareArrays(array string, was, is map[int]map[string]string) []Finding {
	var out []Finding
	at := func(i int) string { return array + "/" + strconv.Itoa(i) }
	lost, found := map[int]bool{}, map[int]bool{} // not at their place
	for _, i := range union(was, is) {
		if maps.Equal(was[i], is[i]) {
			continue
		}
		if was[i] != nil {
			lost[i] = true
		}
		if is[i] != nil {
			found[i] = true
		}
	}
	last := -1
	for _, i := range slices.Sorted(maps.Keys(lost)) {
		for _, j := range slices.Sorted(maps.Keys(found)) {
			if !maps.Equal(was[i], is[j]) {
				continue
			}
			delete(lost, i)
			delete(found, j)
			// Moving up or down because of another's removal is no change of its own.
			if len(was) == len(is) || j < last {
				out = append(out, Finding{Moved, at(j), fmt.Sprintf("it was signed as number %d of %s and is at another place", i, array)})
			}
			last = j
			break
		}
	}
	for _, i := range slices.Sorted(maps.Keys(lost)) {
		if len(was) == len(is) {
			out = append(out, compareLeaves(at(i), was[i], is[i])...)
			delete(found, i)
			continue
		}
		out = append(out, Finding{Removed, at(i), "it was signed and is not there any more"})
	}
	for _, j := range slices.Sorted(maps.Keys(found)) {
		out = append(out, Finding{Added, at(j), "it was not there when the certificate was signed"})
	}
	return out
}

func compareLeaves(prefix string, was, is map[string]string) []Finding {
	var out []Finding
	for _, p := range union(was, is) {
		switch {
		case was[p] == is[p]:
		case is[p] == "":
			out = append(out, Finding{Removed, prefix + p, "it was signed and is not there any more"})
		case was[p] == "":
			out = append(out, Finding{Added, prefix + p, "it was not there when the certificate was signed"})
		default:
			out = append(out, Finding{Changed, prefix + p, "the value is not the one that was signed"})
		}
	}
	return out
}

func union[K string | int, V any](a, b map[K]V) []K {
	all := maps.Clone(a)
	if all == nil {
		all = map[K]V{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}
