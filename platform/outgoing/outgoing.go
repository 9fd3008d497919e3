// Package outgoing makes HTTP clients for addresses that settings name: they refuse to be sent to the cloud's metadata service or into the
// private network, follow no redirect and use no proxy of the environment.
package outgoing

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// ErrForbidden reports an address that settings may not name.
var ErrForbidden = errors.New("address is not allowed for outgoing requests")

var (
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // carrier-grade NAT
	// metadata services that are not link-local
	metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16")}
	// prefixes that carry an IPv4 address inside: 6to4, NAT64, IPv4-compatible
	embedding = []netip.Prefix{netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("::/96")}
)

// Check says whether a resolved address may be connected to. Private and loopback addresses need allowPrivate; link-local and metadata addresses
// are never allowed.
func Check(ip netip.Addr, allowPrivate bool) error {
	ip = ip.Unmap().WithZone("")
	for _, m := range metadata {
		if ip == m {
			return fmt.Errorf("%s (metadata service): %w", ip, ErrForbidden)
		}
	}
	switch {
	case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s: %w", ip, ErrForbidden)
	case ip.IsLinkLocalUnicast():
		return fmt.Errorf("%s (link-local): %w", ip, ErrForbidden)
	case !allowPrivate && (ip.IsLoopback() || ip.IsPrivate() || sharedSpace.Contains(ip)):
		return fmt.Errorf("%s (private): %w; allow private addresses if the channel really is inside", ip, ErrForbidden)
	}
	if !ip.IsLoopback() {
		for _, p := range embedding {
			if p.Contains(ip) {
				return fmt.Errorf("%s (IPv4 inside IPv6): %w", ip, ErrForbidden)
			}
		}
	}
	return nil
}

// Client is an HTTP client that checks every address after it was resolved, so that a name cannot change its mind in between. Time-outs of
// whole requests are the caller's, by context.
func Client(allowPrivate bool) *http.Client {
	d := &net.Dialer{
		Timeout: 5 * time.Second, KeepAlive: 30 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%s: %w", address, ErrForbidden)
			}
			return Check(ap.Addr(), allowPrivate)
		},
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: d.DialContext, MaxIdleConns: 1024, MaxIdleConnsPerHost: 128, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
