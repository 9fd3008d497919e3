package pipeline

import "testing"

func TestQuantiles(t *testing.T) {
	us := make([]int64, 0, 1000)
	for i := 1000; i > 0; i-- {
		us = append(us, int64(i)*1000)
	}
	if got, want := quantiles(us), (Quantiles{Count: 1000, P50: 500, P95: 950, P99: 990, Max: 1000}); got != want {
		t.Errorf("of 1 to 1000 ms: %+v, want %+v", got, want)
	}
	if got := quantiles([]int64{7000}); got.P50 != 7 || got.Max != 7 {
		t.Errorf("of one value: %+v", got)
	}
	if got := quantiles(nil); got != (Quantiles{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestBacklogGrows(t *testing.T) {
	for name, tt := range map[string]struct {
		samples []int64
		want    bool
	}{
		"up and down":         {[]int64{900, 100, 500, 950, 50, 600, 900, 120, 480}, false},
		"always more":         {[]int64{100, 1100, 2100, 3100, 4100, 5100, 6100, 7100, 8100}, true},
		"large, and steady":   {[]int64{90_000, 91_000, 89_000, 90_500, 90_000, 91_000, 90_000, 89_900, 92_000}, false},
		"too little to judge": {[]int64{0, 900}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var b Backlog
			for _, n := range tt.samples {
				b.add(n)
			}
			if b.judge(1000); b.Grows != tt.want {
				t.Errorf("%v grows: %t, want %t", tt.samples, b.Grows, tt.want)
			}
		})
	}
}
