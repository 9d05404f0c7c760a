package api

// This file stands at the door: from which address a request comes. It counts for keys that may be used from some networks
// only, and in the request log.

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the networks of those who are believed about where a request comes from.
type Proxies []netip.Prefix

// client is the address nearest to us that no proxy of ours has. Whoever connects without being a proxy of ours is the
// client, whatever they say; of what a proxy of ours says, only what it says itself is believed, which stands rightmost.
// It is not valid where a proxy of ours says nothing that is an address, and where the two headers that there are for
// it do not agree: a proxy writes one of them and passes the other one on, as whoever sent the request wished it to be.
func (p Proxies) client(r *http.Request) netip.Addr {
	peer := netip.Addr{}
	if connected, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		peer = plain(connected.Addr())
	}
	if !p.trust(peer) {
		return peer
	}
	older, newer := forwardedFor(r.Header.Values("X-Forwarded-For")), forwarded(r.Header.Values("Forwarded"))
	switch {
	case len(older) == 0 && len(newer) == 0:
		return peer
	case len(newer) == 0:
		return p.nearest(older)
	case len(older) == 0, p.nearest(older) == p.nearest(newer):
		return p.nearest(newer)
	}
	return netip.Addr{}
}

func (p Proxies) trust(address netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(address) })
}

// nearest is the last hop that is none of ours; the first where all are.
func (p Proxies) nearest(hops []netip.Addr) netip.Addr {
	for _, hop := range slices.Backward(hops) {
		if !p.trust(hop) {
			return hop
		}
	}
	return hops[0]
}

// forwardedFor reads X-Forwarded-For. A hop that is no address is not valid.
func forwardedFor(lines []string) (hops []netip.Addr) {
	for _, line := range lines {
		for text := range strings.SplitSeq(line, ",") {
			if text = strings.TrimSpace(text); text != "" {
				hops = append(hops, node(text))
			}
		}
	}
	return hops
}

// forwarded reads Forwarded (RFC 7239). A hop that does not say for whom, or cannot be read, is not valid.
func forwarded(lines []string) (hops []netip.Addr) {
	for _, line := range lines {
		elements, whole := splitUnquoted(line, ',')
		if !whole { // the quotation may have swallowed what our proxy added
			elements = []string{"for=unknown"}
		}
		for _, element := range elements {
			if strings.TrimSpace(element) != "" {
				hops = append(hops, forWhom(element))
			}
		}
	}
	return hops
}

// forWhom reads one element of Forwarded.
func forWhom(element string) netip.Addr {
	found, pairs := "", 0
	parameters, _ := splitUnquoted(element, ';')
	for _, parameter := range parameters {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(name), "for") {
			found, pairs = unquoted(strings.TrimSpace(value)), pairs+1
		}
	}
	if pairs != 1 {
		return netip.Addr{}
	}
	return node(found)
}

// splitUnquoted splits at separators outside of quotations, and reports whether every quotation has its end.
func splitUnquoted(text string, separator byte) (parts []string, whole bool) {
	begin, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == separator && !quoted:
			parts, begin = append(parts, text[begin:i]), i+1
		}
	}
	return append(parts, text[begin:]), !quoted
}

func unquoted(text string) string {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return text
	}
	return strings.ReplaceAll(text[1:len(text)-1], `\`, "")
}

// node reads an address, with or without a port, which is of no interest: 192.0.2.1, 192.0.2.1:80, 2001:db8::1,
// [2001:db8::1], [2001:db8::1]:80. Everything else, "unknown" and made-up names too, is not valid.
func node(text string) netip.Addr {
	if address, err := netip.ParseAddr(text); err == nil {
		return plain(address)
	}
	host, port, found := strings.Cut(text, ":")
	if inner, bracketed := strings.CutPrefix(text, "["); bracketed {
		if host, port, found = strings.Cut(inner, "]"); !found {
			return netip.Addr{}
		}
		port, found = strings.CutPrefix(port, ":")
		if !found && port != "" {
			return netip.Addr{}
		}
	}
	address, err := netip.ParseAddr(host)
	if err != nil || (found && !isPort(port)) || address.Is6() != strings.HasPrefix(text, "[") {
		return netip.Addr{}
	}
	return plain(address)
}

// isPort takes numbers and, as RFC 7239 does, made-up names behind an underscore.
func isPort(text string) bool {
	digits := strings.Trim(text, "0123456789") == "" && len(text) <= 5
	return text != "" && (digits || text[0] == '_')
}

// plain is an address as prefixes have it: an IPv4 address written as IPv6 is the IPv4 one, and zones are this machine's.
func plain(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }
