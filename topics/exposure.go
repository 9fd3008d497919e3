package topics

import (
	"fmt"

	onhandv1 "github.com/onhand/onhand/schemas/gen/onhand/v1"
	"github.com/onhand/onhand/stock/escrow"
	"github.com/onhand/onhand/stock/exposure"
	"github.com/onhand/onhand/stock/write"
)

// AppendBooks appends the exposure.books value of x, as decided at a time in microseconds, to dst.
func (c *Codec) AppendBooks(dst []byte, x *escrow.Snapshot, decidedAt int64) []byte {
	m := onhandv1.ExposureBooks{
		Sku: x.SKU, Phase: onhandv1.ExposurePhase(x.Phase), LevelSeen: x.Seen, LevelVersion: x.Version, Available: int64(x.Available), Sequence: x.Seq,
		CalmSinceUs: x.Calm, Shortage: int64(x.Shortage), Held: x.Held, DecidedAtUs: decidedAt, Channels: make([]*onhandv1.ChannelExposure, len(x.Channels)),
	}
	channels := make([]onhandv1.ChannelExposure, len(x.Channels)) // one allocation for all
	for i := range x.Channels {
		s, d := &x.Channels[i], &channels[i]
		m.Channels[i] = d
		d.Channel, d.Sold, d.Restored, d.RecentSales, d.LastingSales, d.CountedAtUs = s.Channel, int64(s.Sold), int64(s.Restored), s.Fast, s.Slow, s.CountedAt
		d.Allotted, d.Claims = s.Allotted, s.Claims
		if !s.Booked {
			continue
		}
		b := &s.Books
		d.Booked, d.ExternalId, d.Exposure, d.ExposureUnknown = true, s.ExternalID, int64(b.E), b.Open
		d.Shown, d.ShownKnown, d.OpenWrite = int64(b.Belief), b.Known, s.Grant
		d.Operation, d.Quantity, d.Delta, d.Expected = onhandv1.WriteOperation(b.Write.Operation), int64(b.Write.Quantity), int64(b.Write.Delta), int64(b.Write.Expected)
		d.InFlight, d.Unresolved, d.RestockedSince, d.SoldSince, d.WatermarkUs = b.InFlight, b.Unresolved, int64(b.Restocked), int64(b.Seen), b.Watermark
		d.Share, d.Failures, d.Stale, d.RetryAtUs, d.InDoubt, d.Suspect, d.Retiring = int64(s.Share), int32(s.Failures), int32(s.Stale), s.Retry, s.Doubt, s.Suspect, s.Retiring
		d.SinceUs, d.Stranger = s.Since, s.Stranger
		d.Surplus, d.SurplusAtUs, d.SurplusCause, d.SurplusShown, d.CountedTwice = int64(s.Surplus), s.SurplusAt, s.SurplusCause, s.SurplusShown, int64(s.Twice)
		for _, f := range b.Fences {
			d.Fences = append(d.Fences, &onhandv1.ExposureFence{
				AtUs: f.At, Raised: int64(f.Raised), Sold: int64(f.Sold), Shown: int64(f.Shown), Credit: int64(f.Credit), Anchored: f.Anchor,
			})
		}
	}
	for _, x := range x.Consents {
		m.Consents = append(m.Consents, &onhandv1.BundleConsent{Component: x.Component, Grant: x.Grant, Quantity: int64(x.Quantity), Most: int64(x.Most)})
	}
	return c.appendMessage(dst, "ExposureBooks", &m)
}

// DecodeBooks decodes an exposure.books value.
func DecodeBooks(value []byte) (*escrow.Snapshot, error) {
	x, _, err := DecodeBooksAt(value)
	return x, err
}

// DecodeBooksAt also gives when the books were decided, in microseconds.
func DecodeBooksAt(value []byte) (x *escrow.Snapshot, decidedAt int64, err error) {
	b, err := payload(value, booksIndex)
	if err != nil {
		return nil, 0, undecodable("books of exposure", err)
	}
	var m onhandv1.ExposureBooks
	if err := m.UnmarshalVT(b); err != nil {
		return nil, 0, undecodable("books of exposure", err)
	}
	if m.Phase < 0 || m.Phase > onhandv1.ExposurePhase_EXPOSURE_PHASE_LEAVING {
		return nil, 0, undecodable("books of exposure", fmt.Errorf("phase %d is not known to this version", m.Phase))
	}
	x = &escrow.Snapshot{
		SKU: m.Sku, Phase: escrow.Phase(m.Phase), Seen: m.LevelSeen, Version: m.LevelVersion, Available: escrow.Units(m.Available), Seq: m.Sequence,
		Calm: m.CalmSinceUs, Shortage: escrow.Units(m.Shortage), Held: m.Held, Channels: make([]escrow.ChannelSnapshot, len(m.Channels)),
	}
	for i, s := range m.Channels {
		d := &x.Channels[i]
		*d = escrow.ChannelSnapshot{
			Channel: s.Channel, Sold: escrow.Units(s.Sold), Restored: escrow.Units(s.Restored), Fast: s.RecentSales, Slow: s.LastingSales, CountedAt: s.CountedAtUs,
			Allotted: s.Allotted, Claims: s.Claims,
		}
		if !s.Booked {
			continue
		}
		d.Booked, d.ExternalID, d.Grant, d.Share, d.Failures, d.Stale = true, s.ExternalId, s.OpenWrite, escrow.Units(s.Share), int(s.Failures), int(s.Stale)
		d.Retry, d.Doubt, d.Suspect, d.Retiring = s.RetryAtUs, s.InDoubt, s.Suspect, s.Retiring
		d.Since, d.Stranger = s.SinceUs, s.Stranger
		d.Surplus, d.SurplusAt, d.SurplusCause, d.SurplusShown, d.Twice = escrow.Units(s.Surplus), s.SurplusAtUs, s.SurplusCause, s.SurplusShown, escrow.Units(s.CountedTwice)
		d.Books = exposure.State{
			E: escrow.Units(s.Exposure), Open: s.ExposureUnknown, Belief: escrow.Units(s.Shown), Known: s.ShownKnown,
			Write: exposure.Write{
				Operation: write.Operation(s.Operation), Quantity: escrow.Units(s.Quantity), Delta: escrow.Units(s.Delta), Expected: escrow.Units(s.Expected),
			},
			InFlight: s.InFlight, Unresolved: s.Unresolved, Restocked: escrow.Units(s.RestockedSince), Seen: escrow.Units(s.SoldSince), Watermark: s.WatermarkUs,
		}
		for _, f := range s.Fences {
			d.Books.Fences = append(d.Books.Fences, exposure.Fence{
				At: f.AtUs, Raised: escrow.Units(f.Raised), Sold: escrow.Units(f.Sold), Shown: escrow.Units(f.Shown), Credit: escrow.Units(f.Credit), Anchor: f.Anchored,
			})
		}
	}
	for _, c := range m.Consents {
		x.Consents = append(x.Consents, escrow.Consent{Component: c.Component, Grant: c.Grant, Quantity: escrow.Units(c.Quantity), Most: escrow.Units(c.Most)})
	}
	return x, m.DecidedAtUs, nil
}

// AppendCertificate appends the exposure.certificates value of x to dst.
func (c *Codec) AppendCertificate(dst []byte, x *escrow.Certificate) []byte {
	return c.appendMessage(dst, "ExposureCertificate", &onhandv1.ExposureCertificate{
		Day: x.Day, Partition: x.Partition, Checked: x.Checked, LeastSlack: int64(x.LeastSlack), TightestSku: x.Tightest, TightestAtUs: x.TightestAt,
		Breaches: x.Breaches, Granted: x.Granted, Unknown: x.Unknown, AtUs: x.At,
	})
}

// DecodeCertificate decodes an exposure.certificates value.
func DecodeCertificate(value []byte) (*escrow.Certificate, error) {
	b, err := payload(value, certIndex)
	if err != nil {
		return nil, undecodable("certificate", err)
	}
	var m onhandv1.ExposureCertificate
	if err := m.UnmarshalVT(b); err != nil {
		return nil, undecodable("certificate", err)
	}
	return &escrow.Certificate{
		Day: m.Day, Partition: m.Partition, Checked: m.Checked, LeastSlack: escrow.Units(m.LeastSlack), Tightest: m.TightestSku, TightestAt: m.TightestAtUs,
		Breaches: m.Breaches, Granted: m.Granted, Unknown: m.Unknown, At: m.AtUs,
	}, nil
}
