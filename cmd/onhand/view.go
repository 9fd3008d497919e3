package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"github.com/onhand/onhand/allinone/figures"
)

// isTerminal reports whether w is a terminal that can be drawn on.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// printLines writes one line of figures every period until ctx ends.
func printLines(ctx context.Context, out io.Writer, every time.Duration, latest func() figures.Figures) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = fmt.Fprintln(out, line1(latest())) // a closed output ends nothing
		}
	}
}

// line1 is the figures in one line.
func line1(f figures.Figures) string {
	var b strings.Builder
	b.WriteString(f.At.Format(time.TimeOnly))
	for _, s := range f.Stages {
		fmt.Fprintf(&b, "  %s %s/s", s.Name, group(int64(s.PerSecond)))
		if s.Lag > 0 {
			fmt.Fprintf(&b, " (%s waiting)", group(s.Lag))
		}
	}
	if f.Sync.Count > 0 {
		fmt.Fprintf(&b, "  sync p50 %s p95 %s p99 %s", ms(f.Sync.P50), ms(f.Sync.P95), ms(f.Sync.P99))
	}
	fmt.Fprintf(&b, "  oversold %s", group(f.Oversold))
	if f.Refused >= 0 {
		fmt.Fprintf(&b, "  refused %s", group(f.Refused))
	}
	if r := f.Replay; r != nil {
		fmt.Fprintf(&b, "  replay %s %.1f %%", r.Day, 100*r.Share)
	}
	return b.String()
}

// ms is milliseconds for people.
func ms(v float64) string {
	switch {
	case v >= 10_000:
		return strconv.FormatFloat(v/1000, 'f', 1, 64) + " s"
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " ms"
}

// group is a number with a comma between thousands.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// board is the terminal view.
type board struct {
	latest func() figures.Figures
	now    figures.Figures
	width  int
	height int
	spark  []float64
	stop   func() // asks the program to stop
	ending bool
}

type tickMsg struct{}

func tick() tea.Cmd {
	return tea.Tick(500*time.Millisecond, func(time.Time) tea.Msg { return tickMsg{} })
}

func (m *board) Init() tea.Cmd { return tick() }

func (m *board) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "ctrl+c", "esc":
			m.ending = true
			m.stop()
		}
	case tickMsg:
		m.now = m.latest()
		if len(m.now.Stages) > 0 {
			m.spark = append(m.spark, m.now.Stages[0].PerSecond)
			if len(m.spark) > 60 {
				m.spark = m.spark[1:]
			}
		}
		return m, tick()
	}
	return m, nil
}

var (
	titleStyle = lipgloss.NewStyle().Bold(true)
	quietStyle = lipgloss.NewStyle().Faint(true)
	badStyle   = lipgloss.NewStyle().Foreground(lipgloss.Color("9")).Bold(true)
	goodStyle  = lipgloss.NewStyle().Foreground(lipgloss.Color("10"))
)

// View draws the whole screen.
func (m *board) View() tea.View {
	v := tea.NewView(m.draw())
	v.AltScreen = true
	v.WindowTitle = "Onhand"
	return v
}

func (m *board) draw() string {
	f := &m.now
	var b strings.Builder
	row := func(s string) { b.WriteString(clip(s, m.width) + "\n") }
	state := goodStyle.Render("ready")
	if !f.Ready {
		state = badStyle.Render("starting")
	}
	up := time.Duration(0)
	if !f.StartedAt.IsZero() {
		up = f.At.Sub(f.StartedAt).Truncate(time.Second)
	}
	row(titleStyle.Render("Onhand ") + f.Version + "  " + state + quietStyle.Render(fmt.Sprintf("  up %s  %d MB", up, f.Memory>>20)))
	for _, a := range f.Addresses {
		row(quietStyle.Render(fmt.Sprintf("%-16s", a.Name)) + a.URL)
	}
	row("")
	if r := f.Replay; r != nil {
		const wide = 40
		n := int(r.Share * wide)
		row(fmt.Sprintf("replay %s  %s%s  %5.1f %%  %s lines", r.Day, strings.Repeat("█", n), strings.Repeat("░", wide-n), 100*r.Share, group(r.Lines)))
		row("")
	}
	row(quietStyle.Render(fmt.Sprintf("%-17s%12s%15s%12s", "stage", "a second", "since start", "waiting")))
	for _, s := range f.Stages {
		row(fmt.Sprintf("%-17s%12s%15s%12s  %s", s.Name, group(int64(s.PerSecond)), group(s.Total), group(s.Lag), quietStyle.Render(s.Unit)))
	}
	row(quietStyle.Render("into stock.events ") + sparkline(m.spark))
	row("")
	sync := "–"
	if f.Sync.Count > 0 {
		sync = fmt.Sprintf("p50 %s   p95 %s   p99 %s", ms(f.Sync.P50), ms(f.Sync.P95), ms(f.Sync.P99))
	}
	row("sync latency      " + sync)
	oversold := group(f.Oversold)
	if f.Oversold > 0 {
		oversold = badStyle.Render(oversold)
	}
	refused := "–"
	if f.Refused >= 0 {
		refused = group(f.Refused)
	}
	row("oversold units    " + oversold + "     refused units " + refused + "     rejected records " + group(f.Rejected))
	row("")
	for _, n := range f.Notes {
		row(n)
	}
	if len(f.Notes) > 0 {
		row("")
	}
	row(quietStyle.Render("last pushes"))
	room := m.height - strings.Count(b.String(), "\n") - 2
	for i, p := range f.Pushes {
		if m.height > 0 && i >= room {
			break
		}
		latency := "–" // room that moves between channels: no sale waited for it
		if p.Millis > 0 {
			latency = ms(p.Millis)
		}
		row(fmt.Sprintf("%s  %-14s %-14s shows %7s  %9s  %s", p.At.Local().Format(time.TimeOnly), p.Channel, p.SKU, group(p.Quantity), latency, p.Outcome))
	}
	if m.ending {
		row(quietStyle.Render("stopping …"))
	} else {
		row(quietStyle.Render("q stops"))
	}
	return b.String()
}

// clip cuts a styled line to the width of the screen.
func clip(s string, width int) string {
	if width <= 0 {
		return s
	}
	return lipgloss.NewStyle().MaxWidth(width).Render(s)
}

// sparkline draws values as bars.
func sparkline(v []float64) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	top := 1.0
	for _, x := range v {
		top = max(top, x)
	}
	out := make([]rune, len(v))
	for i, x := range v {
		out[i] = bars[min(len(bars)-1, int(x/top*float64(len(bars))))]
	}
	return string(out)
}

// showBoard draws until ctx ends; stop is called when the user asks to stop.
func showBoard(ctx context.Context, s streams, latest func() figures.Figures, stop func()) error {
	p := tea.NewProgram(&board{latest: latest, stop: stop}, tea.WithContext(ctx), tea.WithInput(s.in), tea.WithOutput(s.out), tea.WithoutSignalHandler(), tea.WithFPS(10))
	_, err := p.Run()
	if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, context.Canceled) {
		return nil // ctx ended
	}
	return err
}
