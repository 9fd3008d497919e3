package clickhouse

import (
	"context"
	"sync"
	"time"
)

// session is what a client keeps between its requests: settings, the current
// database and temporary tables, on a connection of its own.
type session struct {
	busy chan struct{} // holds one token while free
	conn *conn
	used time.Time
	keep time.Duration
}

func (s *session) lock(ctx context.Context) error {
	select {
	case <-s.busy:
		return nil
	case <-ctx.Done():
		return &Error{Code: 373, Name: "SESSION_IS_LOCKED", Message: "Session is locked by a concurrent client"}
	}
}

func (s *session) unlock() { s.busy <- struct{}{} }

// maxSessions bounds the connections that sessions hold.
const maxSessions = 32

// sessions are the sessions of one handler by user and id.
type sessions struct {
	engine *Engine
	mu     sync.Mutex
	byID   map[string]*session
}

// get returns the session with this id, made anew unless it must exist. It
// drops sessions that nobody used for their time.
func (l *sessions) get(id string, keep time.Duration, mustExist bool) (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for key, s := range l.byID {
		if key != id && now.Sub(s.used) > s.keep {
			l.drop(key, s)
		}
	}
	s := l.byID[id]
	switch {
	case s != nil:
	case mustExist:
		return nil, &Error{Code: 372, Name: "SESSION_NOT_FOUND", Message: "Session not found"}
	default:
		if len(l.byID) >= maxSessions {
			l.dropOldest()
		}
		if len(l.byID) >= maxSessions {
			return nil, &Error{Code: 202, Name: "TOO_MANY_SIMULTANEOUS_QUERIES", Message: "Too many sessions are in use: leave session_id out, or end some"}
		}
		s = &session{busy: make(chan struct{}, 1)}
		s.busy <- struct{}{}
		l.byID[id] = s
	}
	s.used, s.keep = now, keep
	return s, nil
}

// drop ends a session if no statement runs on it.
func (l *sessions) drop(id string, s *session) bool {
	select {
	case <-s.busy:
	default:
		return false
	}
	delete(l.byID, id)
	if s.conn != nil {
		l.engine.lib.closeConn(s.conn.handle)
	}
	return true
}

// dropOldest ends the idle session that was used least recently.
func (l *sessions) dropOldest() {
	tried := map[string]bool{}
	for range len(l.byID) {
		oldest := ""
		for id, s := range l.byID {
			if !tried[id] && (oldest == "" || s.used.Before(l.byID[oldest].used)) {
				oldest = id
			}
		}
		if tried[oldest] = true; l.drop(oldest, l.byID[oldest]) {
			return
		}
	}
}

// close ends all sessions, waiting for statements that run on them.
func (l *sessions) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.byID {
		<-s.busy
		delete(l.byID, id)
		if s.conn != nil {
			l.engine.lib.closeConn(s.conn.handle)
		}
	}
}
