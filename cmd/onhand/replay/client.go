package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// client posts NDJSON, again and again until it is answered for good.
type client struct {
	http *http.Client
	key  string
	wait func(ctx context.Context, d time.Duration) error // a pause; tests shorten it
}

// tries bounds the retries of one request: with the pauses below about two minutes.
const tries = 30

// post sends body to url and decodes the answer into out, unless out is nil. It tries again after connection errors, 429 and 5xx.
func (c *client) post(ctx context.Context, url string, body []byte, out any) error {
	pause := 50 * time.Millisecond
	var last error
	for range tries {
		status, after, answer, err := c.once(ctx, http.MethodPost, url, body)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			last = fmt.Errorf("%s: %w", url, err)
		case status >= 200 && status < 300:
			if out == nil {
				return nil
			}
			if err := json.Unmarshal(answer, out); err != nil {
				return fmt.Errorf("%s: answer: %w", url, err)
			}
			return nil
		case status == http.StatusTooManyRequests || status >= 500:
			last = fmt.Errorf("%s: %s", url, say(status, answer))
		default:
			return fmt.Errorf("%s: %s", url, say(status, answer))
		}
		if err := c.wait(ctx, max(pause, after)); err != nil {
			return errors.Join(err, last)
		}
		pause = min(2*pause, 5*time.Second)
	}
	return fmt.Errorf("given up after %d tries: %w", tries, last)
}

func (c *client) once(ctx context.Context, method, url string, body []byte) (status int, after time.Duration, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, 0, nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/x-ndjson")
	}
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return 0, 0, nil, err
	}
	answer, err = io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if s, e := strconv.Atoi(res.Header.Get("Retry-After")); e == nil {
		after = time.Duration(s) * time.Second
	}
	return res.StatusCode, after, answer, errors.Join(err, res.Body.Close())
}

// say is an error answer for people: a problem document's text, or what there is.
func say(status int, body []byte) string {
	var p struct{ Title, Detail, Message string }
	if json.Unmarshal(body, &p) == nil && p.Title+p.Detail+p.Message != "" {
		text := p.Detail
		if text == "" {
			text = p.Title + p.Message
		}
		return strconv.Itoa(status) + ": " + text
	}
	return strconv.Itoa(status) + " " + http.StatusText(status)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
