package ledger

import "github.com/onhand/onhand/stock/event"

// DigestBuckets is how many sums a partition's digest consists of. A SKU's hash says which sum it is part of ([DigestBucket]), so that one
// sum can be checked against the few SKUs it speaks of while the others change.
const DigestBuckets = 256

// DigestBucket is the sum that a SKU is part of.
func DigestBucket(sku string) int { return int(nameHash(sku) & (DigestBuckets - 1)) }

// Seeds of what a digest covers beside the fields.
const (
	seedVersion = 0x9ae16a3b2f90404f + iota
	seedAvailable
	seedOffset
	seedReceived
	seedKind
	seedEventID
	seedField
)

// part is one number of a digest. Parts are added up, so that their order does not matter.
func part(seed uint64, v int64) uint64 { return mix64(mix64(seed) ^ uint64(v)*0x9e3779b97f4a7c15) }

// partOf is the part of a number by location or channel, whose name has the hash.
func partOf(f Field, name uint64, v int64) uint64 {
	return part(name^(uint64(f)+seedField)*0xff51afd7ed558ccd, v)
}

// head is what is in a digest beside the numbers by location and channel.
func head(version int64, available Units, offset, receivedAt int64, kind event.Kind, id []byte) uint64 {
	lo, _ := hash128(id)
	return part(seedVersion, version) + part(seedAvailable, int64(available)) + part(seedOffset, offset) + part(seedReceived, receivedAt) +
		part(seedKind, int64(kind)) + part(seedEventID, int64(lo))
}

// close binds the parts to the SKU, so that equal numbers of two SKUs do not cancel out.
func close(sku, parts uint64) uint64 { return mix64(sku + parts) }

// digestOf is the digest of a SKU as it is now: a 64-bit hash of all that is stored of it.
func (p *Partition) digestOf(s *SKU) uint64 {
	d := head(s.version, s.Available(), s.offset, s.receivedAt, s.kind, s.eventID)
	d += partOf(Unassigned, 0, int64(s.unassigned))
	for i := range s.shelves {
		h := &s.shelves[i]
		name := p.locations.hashes[h.loc]
		for f := range locationFields {
			if f <= Safety || h.v[f] != 0 {
				d += partOf(f, name, h.v[f])
			}
		}
	}
	for _, t := range s.sold {
		d += partOf(Sold, p.channels.hashes[t.channel], int64(t.units))
	}
	for _, t := range s.restored {
		d += partOf(Restored, p.channels.hashes[t.channel], int64(t.units))
	}
	for _, a := range s.allotments {
		d += partOf(Allotted, p.channels.hashes[a.channel], int64(a.units)) + partOf(Sequence, p.channels.hashes[a.channel], a.sequence)
	}
	return close(s.hash, d)
}

// Digest is the digest of a stored SKU. It equals the one that its owner added to the partition's, unless something was changed behind its back.
func (st *Stored) Digest() uint64 {
	d := head(st.Version, st.Available, st.Offset, st.ReceivedAt, st.EventKind, []byte(st.EventID))
	for _, c := range st.Changes {
		name := uint64(0)
		if c.Field != Unassigned {
			name = nameHash(c.Name)
		}
		d += partOf(c.Field, name, c.Value)
	}
	return close(nameHash(st.SKU), d)
}

// Digest is, by bucket, the sum over the partition's SKUs of a hash of all that is stored of each, as they are now. It is kept up to date with work for
// each SKU that changed, and it does not depend on the order of anything. Do not change it; valid until the next call.
func (p *Partition) Digest() *[DigestBuckets]uint64 {
	for _, s := range p.changed {
		d := p.digestOf(s)
		if d == s.digest {
			continue
		}
		b := s.hash & (DigestBuckets - 1)
		p.digest[b] += d - s.digest
		s.digest = d
		p.digested[b] = true
	}
	return &p.digest
}

// DigestChanged says, by bucket, which sums changed since Flushed; all of them when the partition was restored without its digest. Call
// Digest before.
func (p *Partition) DigestChanged() *[DigestBuckets]bool { return &p.digested }
