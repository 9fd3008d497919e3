package ingest

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/onhand/onhand/services/ingest/internal/intake"
	"github.com/onhand/onhand/stock/event"
)

var update = flag.Bool("update", false, "rewrite openapi.yaml")

// TestOpenAPI holds the description that is served, the one in git and the code together.
func TestOpenAPI(t *testing.T) {
	g := start(t)
	served := g.do(http.MethodGet, "/openapi.yaml", nil, "Authorization", "")
	if served.status != 200 || served.header.Get("Content-Type") != "application/openapi+yaml" {
		t.Fatalf("status %d, %s", served.status, served.header)
	}
	if *update {
		if err := os.WriteFile("openapi.yaml", served.body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile("openapi.yaml"); err != nil || !bytes.Equal(served.body, want) {
		t.Errorf("openapi.yaml differs from what is served (%v): if the change is meant, run: go test -run OpenAPI -update .", err)
	}
	var d struct {
		OpenAPI string                    `json:"openapi"`
		Paths   map[string]map[string]any `json:"paths"`
	}
	if a := g.do(http.MethodGet, "/openapi.json", nil, "Authorization", ""); json.Unmarshal(a.body, &d) != nil || d.OpenAPI != "3.1.0" {
		t.Errorf("openapi.json: status %d: %.200s", a.status, a.body)
	}
	// Every route is described, and everything described is a route.
	described := map[string]bool{}
	for path, item := range d.Paths {
		for method := range item {
			described[strings.ToUpper(method)+" "+path] = true
		}
	}
	r := chi.NewRouter()
	g.svc.Routes(r)
	_ = chi.Walk(r, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if name := method + " " + route; !strings.HasPrefix(route, "/openapi") && !described[name] {
			t.Errorf("%s is not described", name)
		} else {
			delete(described, name)
		}
		return nil
	})
	for name := range described {
		t.Errorf("%s is described and is no route", name)
	}
}

// TestDescribedFieldsAreThoseRead holds the documented types and the reader of package intake together.
func TestDescribedFieldsAreThoseRead(t *testing.T) {
	for _, tt := range []struct {
		doc  any
		read []string
	}{
		{OrderDocument{}, intake.OrderFields}, {LineDocument{}, intake.LineFields}, {AddressDocument{}, intake.AddressFields}, {EventDocument{}, intake.EventFields},
	} {
		typ := reflect.TypeOf(tt.doc)
		var names []string
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
		want := slices.Clone(tt.read)
		slices.Sort(names)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			t.Errorf("%s documents %v, and %v are read", typ.Name(), names, want)
		}
	}
	var kinds []string
	for k := 1; k <= int(event.SafetyStockSet); k++ {
		kinds = append(kinds, event.Kind(k).String())
	}
	f, _ := reflect.TypeFor[EventDocument]().FieldByName("Kind")
	if got := f.Tag.Get("enum"); got != strings.Join(kinds, ",") {
		t.Errorf("documented kinds %s, want %s", got, strings.Join(kinds, ","))
	}
}
