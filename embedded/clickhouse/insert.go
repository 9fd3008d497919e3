package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// insert runs an INSERT whose rows come from body. The engine takes large
// Native and binary data only from a file, so the rows pass through one.
func (e *Engine) insert(ctx context.Context, st statement, body io.Reader, q Query, s *session) (*Result, error) {
	file, err := os.CreateTemp(filepath.Join(e.cfg.Dir, "inserts"), "rows-*")
	if err != nil {
		return nil, fmt.Errorf("keep the rows of an INSERT: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = io.Copy(file, body)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("keep the rows of an INSERT: %w", err)
	}
	st.text = st.insert.table + " FROM INFILE " + quoteString(file.Name()) + " COMPRESSION 'none' " + st.insert.settings + " FORMAT " + st.insert.format
	return e.run(ctx, st, q, s)
}
