package changes

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
)

// idVersion is the form of ids. An id of another form is unknown.
const idVersion = 1

// encodeID packs where a stream is: the next offset in each of its partitions. The fingerprint says of which topic and which partitions.
func encodeID(fingerprint uint32, next []int64) string {
	b := make([]byte, 0, 5+3*len(next))
	b = append(b, idVersion)
	b = binary.BigEndian.AppendUint32(b, fingerprint)
	for _, o := range next {
		b = binary.AppendUvarint(b, uint64(max(0, o)))
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeID is the inverse; false for an id of another topic, of other partitions, or of no stream at all.
func decodeID(id string, fingerprint uint32, partitions int) ([]int64, bool) {
	b, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(b) < 5 || b[0] != idVersion || binary.BigEndian.Uint32(b[1:]) != fingerprint {
		return nil, false
	}
	b = b[5:]
	next := make([]int64, partitions)
	for i := range next {
		o, n := binary.Uvarint(b)
		if n <= 0 || int64(o) < 0 {
			return nil, false
		}
		next[i], b = int64(o), b[n:]
	}
	return next, len(b) == 0
}

func fingerprint(topicID [16]byte, partitions []int32) uint32 {
	h := fnv.New32a()
	h.Write(topicID[:])
	var b [4]byte
	for _, p := range partitions {
		binary.BigEndian.PutUint32(b[:], uint32(p))
		h.Write(b[:])
	}
	return h.Sum32()
}
