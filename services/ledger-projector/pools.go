package ledgerprojector

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// pools lends the client the memory of fetched records: their decompressed bytes and the records themselves. Both come back once every record of a batch has
// been folded (Record.Recycle); a record must not be looked at after that, nor any string that was decoded from it.
type pools struct {
	bytes, records sync.Pool
}

// GetDecompressBytes has room for most batches; the client grows what is too small, and gives that back. Memory of a smaller batch is let go: growing it costs as much
// again as decompressing.
func (p *pools) GetDecompressBytes(compressed []byte, _ kgo.CompressionCodecType) []byte {
	if b, ok := p.bytes.Get().(*[]byte); ok && cap(*b) >= 4*len(compressed) {
		return (*b)[:0]
	}
	return make([]byte, 0, 6*len(compressed))
}

// PutDecompressBytes takes them back.
func (p *pools) PutDecompressBytes(b []byte) {
	if cap(b) <= 16<<20 { // a batch out of the ordinary is not kept
		p.bytes.Put(&b)
	}
}

// GetRecords is room for n records.
func (p *pools) GetRecords(n int) []kgo.Record {
	if rs, ok := p.records.Get().(*[]kgo.Record); ok && cap(*rs) >= n {
		return (*rs)[:0]
	}
	return make([]kgo.Record, 0, n)
}

// PutRecords takes them back.
func (p *pools) PutRecords(rs []kgo.Record) {
	if cap(rs) <= 1<<16 {
		p.records.Put(&rs)
	}
}
