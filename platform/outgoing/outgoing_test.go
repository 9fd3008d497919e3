package outgoing

import (
	"errors"
	"net/netip"
	"testing"
)

func TestCheck(t *testing.T) {
	for addr, want := range map[string]struct{ public, private bool }{
		"93.184.216.34": {true, true}, "2606:2800:220:1::1": {true, true},
		"127.0.0.1": {false, true}, "::1": {false, true}, "10.1.2.3": {false, true}, "192.168.0.1": {false, true}, "172.16.9.9": {false, true},
		"fd12:3456::1": {false, true}, "100.64.0.1": {false, true}, "::ffff:10.1.2.3": {false, true},
		"169.254.169.254": {}, "::ffff:169.254.169.254": {}, "fe80::1": {}, "fe80::1%eth0": {}, "fd00:ec2::254": {}, "100.100.100.200": {}, "168.63.129.16": {},
		"0.0.0.0": {}, "::": {}, "224.0.0.1": {}, "ff02::1": {}, "255.255.255.255": {},
		"64:ff9b::a9fe:a9fe": {}, "2002:a9fe:a9fe::1": {}, "::169.254.169.254": {},
	} {
		ip := netip.MustParseAddr(addr)
		if err := Check(ip, false); (err == nil) != want.public || (err != nil && !errors.Is(err, ErrForbidden)) {
			t.Errorf("%s: %v, want allowed: %v", addr, err, want.public)
		}
		if err := Check(ip, true); (err == nil) != want.private {
			t.Errorf("%s with private addresses: %v, want allowed: %v", addr, err, want.private)
		}
	}
}
