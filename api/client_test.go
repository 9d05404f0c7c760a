package api

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/projections"
)

var ours = Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("192.0.2.7/32")}

// comes is where a request seems to come from.
func comes(peer string, header http.Header) string {
	r := &http.Request{RemoteAddr: peer, Header: header}
	return addressText(ours.client(r))
}

func TestWhereARequestComesFrom(t *testing.T) {
	const proxy, other = "10.1.2.3:4711", "198.51.100.9:4711"
	older := func(lines ...string) http.Header { return http.Header{"X-Forwarded-For": lines} }
	newer := func(lines ...string) http.Header { return http.Header{"Forwarded": lines} }
	both := func(a, b string) http.Header {
		return http.Header{"X-Forwarded-For": {a}, "Forwarded": {b}}
	}
	for sentence, c := range map[string]struct {
		peer   string
		header http.Header
		want   string
	}{
		"a stranger is who they are":                         {other, nil, "198.51.100.9"},
		"whatever they say":                                  {other, older("203.0.113.1"), "198.51.100.9"},
		"or say otherwise":                                   {other, newer("for=203.0.113.1"), "198.51.100.9"},
		"a stranger by IPv6":                                 {"[2001:db8::9]:1", nil, "2001:db8::9"},
		"IPv4 written as IPv6 is IPv4":                       {"[::ffff:198.51.100.9]:1", older("203.0.113.1"), "198.51.100.9"},
		"a link's name does not count":                       {"[fe80::1%eth0]:1", nil, "fe80::1"},
		"no address at all":                                  {"@", older("203.0.113.1"), ""},
		"a proxy that says nothing is the client":            {proxy, nil, "10.1.2.3"},
		"a proxy is believed":                                {proxy, older("203.0.113.1"), "203.0.113.1"},
		"as IPv4 in IPv6 too":                                {"[::ffff:10.1.2.3]:1", older("203.0.113.1"), "203.0.113.1"},
		"a proxy of one address":                             {"192.0.2.7:1", older("203.0.113.1"), "203.0.113.1"},
		"and its neighbour is none":                          {"192.0.2.8:1", older("203.0.113.1"), "192.0.2.8"},
		"a proxy by IPv6":                                    {"[fd00::1]:1", older("2001:db8::1"), "2001:db8::1"},
		"what the client said stands left":                   {proxy, older("1.1.1.1, 203.0.113.1"), "203.0.113.1"},
		"two proxies in a row":                               {proxy, older("1.1.1.1, 203.0.113.1,10.9.9.9"), "203.0.113.1"},
		"several lines are one":                              {proxy, older("1.1.1.1", "203.0.113.1", "10.9.9.9"), "203.0.113.1"},
		"from within":                                        {proxy, older("10.5.5.5, 10.9.9.9"), "10.5.5.5"},
		"with a port":                                        {proxy, older("203.0.113.1:55555"), "203.0.113.1"},
		"IPv6 with a port":                                   {proxy, older("[2001:db8::1]:55555"), "2001:db8::1"},
		"IPv6 in brackets":                                   {proxy, older("[2001:db8::1]"), "2001:db8::1"},
		"IPv4 in IPv6 behind a proxy":                        {proxy, older("::ffff:203.0.113.1"), "203.0.113.1"},
		"empty places are none":                              {proxy, older("1.1.1.1,, 203.0.113.1, "), "203.0.113.1"},
		"nothing but empty places":                           {proxy, older(" , ,"), "10.1.2.3"},
		"a proxy that does not know":                         {proxy, older("203.0.113.1, unknown"), ""},
		"garbage further left does not matter":               {proxy, older("<script>, 203.0.113.1"), "203.0.113.1"},
		"nor does it make somebody else the client":          {proxy, older("203.0.113.1, garbage, 10.9.9.9"), ""},
		"an address with a tail":                             {proxy, older("203.0.113.1 or so"), ""},
		"an open bracket":                                    {proxy, older("[2001:db8::1"), ""},
		"IPv4 in brackets":                                   {proxy, older("[203.0.113.1]:1"), ""},
		"a port that is none":                                {proxy, older("203.0.113.1:http"), ""},
		"a port that is empty":                               {proxy, older("203.0.113.1:"), ""},
		"a tail behind the bracket":                          {proxy, older("[2001:db8::1]x1"), ""},
		"RFC 7239":                                           {proxy, newer("for=203.0.113.1"), "203.0.113.1"},
		"its own example":                                    {proxy, newer(`for=192.0.2.43, for="[2001:db8:cafe::17]";proto=https`), "2001:db8:cafe::17"},
		"with more to say":                                   {proxy, newer(`by=10.0.0.1;FOR="203.0.113.1:4711" ; host="a;b,c"`), "203.0.113.1"},
		"IPv6 and a port":                                    {proxy, newer(`For="[2001:db8::17]:4711"`), "2001:db8::17"},
		"a port by a made-up name":                           {proxy, newer(`for="203.0.113.1:_x1"`), "203.0.113.1"},
		"escaped for no reason":                              {proxy, newer(`for="203.0.113\.1"`), "203.0.113.1"},
		"a made-up name":                                     {proxy, newer("for=203.0.113.1, for=_gazonk"), ""},
		"for nobody":                                         {proxy, newer("for=203.0.113.1, proto=https"), ""},
		"for two at once":                                    {proxy, newer("for=203.0.113.1;for=203.0.113.2"), ""},
		"a quotation without an end may have swallowed ours": {proxy, newer(`for=203.0.113.2;host=", for=203.0.113.1`), ""},
		"on a line of its own it has not":                    {proxy, newer(`for=203.0.113.2;host="`, "for=203.0.113.1"), "203.0.113.1"},
		"a comma in a quotation ends nothing":                {proxy, newer(`for=203.0.113.1;host="x, for=1.1.1.1"`), "203.0.113.1"},
		"both headers that agree":                            {proxy, both("1.1.1.1, 203.0.113.1", "for=203.0.113.1"), "203.0.113.1"},
		"of two that do not, one was made up":                {proxy, both("203.0.113.1", "for=203.0.113.2"), ""},
	} {
		if got := comes(c.peer, c.header); got != c.want {
			t.Errorf("%s: %v from %s comes from %q, not %q", sentence, c.header, c.peer, got, c.want)
		}
	}
}

// Whoever sends what they like, through proxies that add who they got it from, is never taken for somebody else.
func TestNobodyIsTakenForSomebodyElse(t *testing.T) {
	address := func(first ...string) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			if rapid.Bool().Draw(t, "IPv6") {
				return rapid.SampledFrom([]string{"2001:db8::", "fd00::", "fe80::"}).Draw(t, "network") + rapid.StringMatching(`[1-9a-f][0-9a-f]{0,3}`).Draw(t, "host")
			}
			return rapid.SampledFrom(first).Draw(t, "network") + rapid.StringMatching(`[1-9][0-9]?`).Draw(t, "host")
		})
	}
	anybody, proxy := address("203.0.113.", "10.0.0.", "127.0.0."), rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"10.0.0.", "fd00::"}).Draw(t, "network") + rapid.StringMatching(`[1-9][0-9]?`).Draw(t, "host")
	})
	said := rapid.OneOf(rapid.String(), anybody, rapid.SampledFrom([]string{`"`, `\`, ",", "for=", `for="`, "unknown", "_x", "[", "]", ":", ";"}))
	// write is a proxy's addition to what it got, as one of the two headers has it.
	write := func(t *rapid.T, lines []string, form func(string) string, of string) []string {
		if len(lines) > 0 && rapid.Bool().Draw(t, "on the same line") && !strings.ContainsAny(strings.Join(lines, ""), `"\`) {
			return append(slices.Clone(lines[:len(lines)-1]), lines[len(lines)-1]+", "+form(of))
		}
		return append(slices.Clone(lines), form(of))
	}
	forms := map[string]func(t *rapid.T) func(string) string{
		"X-Forwarded-For": func(t *rapid.T) func(string) string {
			port := rapid.SampledFrom([]string{"", "", ":80"}).Draw(t, "port")
			return func(address string) string {
				if strings.Contains(address, ":") && port != "" {
					address = "[" + address + "]"
				}
				return address + port
			}
		},
		"Forwarded": func(t *rapid.T) func(string) string {
			tail := rapid.SampledFrom([]string{"", ";proto=https", `;host="a,b"`}).Draw(t, "tail")
			return func(address string) string {
				if strings.Contains(address, ":") {
					address = `"[` + address + `]:99"`
				}
				return "for=" + address + tail
			}
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		client := anybody.Draw(t, "client")
		chain := rapid.SliceOfN(proxy, 0, 3).Draw(t, "proxies")
		header := http.Header{}
		for name := range forms {
			if lines := rapid.SliceOfN(said, 0, 3).Draw(t, "what the client says in "+name); len(lines) > 0 {
				header[name] = lines
			}
		}
		name := rapid.SampledFrom([]string{"X-Forwarded-For", "Forwarded"}).Draw(t, "what the proxies write")
		peer := client
		for _, through := range chain {
			header[name] = write(t, header[name], forms[name](t), peer)
			peer = through
		}
		got := comes(netip.AddrPortFrom(netip.MustParseAddr(peer), 1).String(), header)
		ownProxy := ours.trust(netip.MustParseAddr(client)) // then it is believed itself
		switch {
		case ownProxy:
		case len(chain) == 0 && got != client:
			t.Fatalf("%s connects itself and is taken for %s: %v", client, got, header)
		case got != client && got != "":
			t.Fatalf("%s through %v is taken for %s: %v", client, chain, got, header)
		case got == "" && len(header) == 1 && !strings.ContainsAny(strings.Join(header[name], ""), `"\`) && len(chain) > 0:
			t.Fatalf("%s through %v is not known: %v", client, chain, header)
		}
	})
}

func TestAKeyOfSomeNetworksIsHeldAgainstTheClientAndNotTheProxy(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes, func(c *projections.Caller) { c.IPAllow = []string{"203.0.113.0/24", "2001:db8::/32"} })
	from := func(address string) *httptest.ResponseRecorder {
		return w.do(request{method: "GET", path: "/api/me", key: key, header: map[string]string{"X-Forwarded-For": address}})
	}
	w.refused(from("203.0.113.5"), 403, "ip_not_allowed") // nobody said that httptest's 192.0.2.1 is a proxy
	w.server.config.TrustedProxies = Proxies{netip.MustParsePrefix("192.0.2.0/24")}
	for _, address := range []string{"203.0.113.5", "10.0.0.1, 203.0.113.5", "[2001:db8::1]:99", "::ffff:203.0.113.5"} {
		if answer := from(address); answer.Code != 200 {
			t.Errorf("from %s: %d %s", address, answer.Code, answer.Body)
		}
	}
	for _, address := range []string{"203.0.114.5", "203.0.113.5, 203.0.114.5", "unknown", "2001:db9::1"} {
		w.refused(from(address), 403, "ip_not_allowed")
	}
	from("203.0.113.77")
	if last := w.records[len(w.records)-1]; last.RemoteIP != "203.0.113.77" {
		t.Errorf("the request log says %q", last.RemoteIP)
	}
}
