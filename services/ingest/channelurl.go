package ingest

import (
	"net/netip"
	"net/url"
	"strings"
)

var (
	metadataHosts = []string{"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
	never         = prefixes("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "100.100.100.200/32", "::/128", "fe80::/10", "ff00::/8",
		"fd00:ec2::254/128", "fd20:ce::254/128", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32") // the last four can wrap any IPv4 address
	private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "::1/128", "fc00::/7")
)

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func within(a netip.Addr, ps []netip.Prefix) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// channelURLFault says why a channel may not have this base_url; empty when it may. Nothing is looked up: what the name resolves to is for whoever
// connects to check, at the moment of connecting.
func channelURLFault(base string, allowPrivate bool) string {
	u, err := url.Parse(base)
	if base == "" || err != nil || u.Hostname() == "" {
		return "" // the catalog's own checks name these
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	const local = " is in a private network: give a public address, or start ingest with --allow-private-channels"
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return "base_url " + host + " names a network interface: give a public address"
		}
		a = a.Unmap()
		switch {
		case within(a, never):
			return "base_url " + host + " is an address that no channel has (link-local, metadata, multicast or a wrapped one): give the channel's public address"
		case within(a, private) && !allowPrivate:
			return "base_url " + host + local
		}
		return ""
	}
	labels := strings.Split(host, ".")
	if last := labels[len(labels)-1]; last != "" && last[0] >= '0' && last[0] <= '9' { // 127.1, 0x7f000001, 2130706433: IP addresses in disguise
		return "base_url " + host + " is a number that is no address: write an IP address with four parts, or a name"
	}
	for _, m := range metadataHosts {
		if host == m {
			return "base_url " + host + " is the metadata service of a cloud: give the channel's public address"
		}
	}
	tail := labels[len(labels)-1]
	if !allowPrivate && (len(labels) == 1 || tail == "localhost" || tail == "local" || tail == "internal" || tail == "localdomain" || tail == "lan") {
		return "base_url " + host + local
	}
	return ""
}
