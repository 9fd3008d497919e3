package rules

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const chart = "deploy/helm/onhand"

// shapes are the sets of values that the chart is tried with, as helm's arguments.
var shapes = map[string][]string{
	"defaults":      nil,
	"everything on": {"-f", chart + "/ci/all-on.yaml"},
}

// kubernetes is the oldest and the newest version that the chart supports.
var kubernetes = []string{"v1.27.0", "v1.37.0"}

func render(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return run(t, ".", nil, tool(t, "helm", "helm"), slices.Concat([]string{"template", "stock", chart}, args)...)
}

// TestChartRendersWhatKubernetesAccepts lints and renders the chart, and validates every object against Kubernetes' own description.
func TestChartRendersWhatKubernetesAccepts(t *testing.T) {
	helm, conform := tool(t, "helm", "helm"), tool(t, "helm", "kubeconform")
	for shape, args := range shapes {
		for _, version := range kubernetes {
			t.Run(shape+" on "+version, func(t *testing.T) {
				must(t, ".", helm, slices.Concat([]string{"lint", "--strict", "--kube-version", version, chart}, args)...)
				out, err := render(t, slices.Concat([]string{"--kube-version", version}, args)...)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "rendered.yaml")
				if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
				schema := func(dir string) string {
					return "deploy/kubernetes-schemas/" + dir + "/{{ .ResourceKind }}{{ .KindSuffix }}.json"
				}
				must(t, ".", conform, "-strict", "-schema-location", schema(version), "-schema-location", schema("custom"), file)
			})
		}
	}
}

// TestChartIsSafeByDefault reads off each Deployment what a cluster's policy would ask of it.
func TestChartIsSafeByDefault(t *testing.T) {
	for shape, args := range shapes {
		out, err := render(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		services := 0
		for doc := range strings.SplitSeq(out, "\n---\n") {
			if strings.Contains(doc, "\nkind: Secret\n") {
				t.Errorf("%s: the chart makes a Secret; it must only refer to them", shape)
			}
			if !strings.Contains(doc, "\nkind: Deployment\n") {
				continue
			}
			services++
			for _, want := range []string{
				"runAsNonRoot: true", "readOnlyRootFilesystem: true", "allowPrivilegeEscalation: false", "drop: [ALL]", "type: RuntimeDefault",
				"automountServiceAccountToken: false", "path: /healthz", "path: /readyz", "requests:", "limits:",
			} {
				if !strings.Contains(doc, want) {
					t.Errorf("%s: a Deployment lacks %q:\n%s", shape, want, doc)
				}
			}
		}
		if want := len(serviceNames(t)); services != want {
			t.Errorf("%s: %d Deployments for %d services", shape, services, want)
		}
	}
}

// TestChartNamesInstancesAndSessions holds that each service gets the session timeout that is set for it, and the allocator its pod's name, unless it is given another.
func TestChartNamesInstancesAndSessions(t *testing.T) {
	out, err := render(t, shapes["everything on"]...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`INGEST_SESSION: 12s`, `LEDGER_SESSION: 13s`, `ALLOCATOR_SESSION: 14s`, `PUSHER_SESSION: 15s`, `ANALYTICS_SESSION_TIMEOUT: 1m`} {
		if strings.Count(out, want) != 1 {
			t.Errorf("want %s once", want)
		}
	}
	const named = "- name: ALLOCATOR_INSTANCE\n              valueFrom:\n                fieldRef:\n                  fieldPath: metadata.name\n"
	if strings.Count(out, named) != 1 {
		t.Error("the allocator is not named by its pod, or another service is")
	}
	if out, err = render(t); err != nil || strings.Contains(out, "SESSION") || strings.Count(out, named) != 1 {
		t.Errorf("by default: %v, or a session timeout is set, or the allocator is not named by its pod", err)
	}
	if out, err = render(t, "--set", "services.allocator.env.ALLOCATOR_INSTANCE=one"); err != nil || strings.Contains(out, named) || !strings.Contains(out, "ALLOCATOR_INSTANCE: one") {
		t.Errorf("a name that is given: %v, or it is not taken", err)
	}
}

// TestChartRefusesNonsense wants values that cannot work to be refused before anything is installed.
func TestChartRefusesNonsense(t *testing.T) {
	for name, tt := range map[string]struct{ set, says string }{
		"unknown value":               {"services.ingest.replica=3", "replica"},
		"no broker":                   {"kafka.brokers={}", "brokers"},
		"broker without a port":       {"kafka.brokers={kafka}", "brokers"},
		"unknown mechanism":           {"kafka.sasl.mechanism=GSSAPI", "mechanism"},
		"a password without a Secret": {"kafka.sasl.mechanism=PLAIN", "existingSecret"},
		"share of traces beyond all":  {"telemetry.traceRatio=2", "traceRatio"},
		"more pods than partitions":   {"autoscaling.enabled=true,autoscaling.maxReplicas=64", "partitions"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(t, "--set", tt.set)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("--set %s: %v; want an error that names %s", tt.set, err, tt.says)
			}
		})
	}
}

func serviceNames(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root(), "services"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// variable is how --help names the environment variable of a flag.
var variable = regexp.MustCompile(`\$[A-Z][A-Z0-9_]*`)

// TestChartSpeaksTheServicesLanguage builds each service and holds that it knows every variable the chart sets for it.
func TestChartSpeaksTheServicesLanguage(t *testing.T) {
	bin := t.TempDir()
	for _, name := range serviceNames(t) {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(bin, name)
			must(t, ".", "go", "build", "-o", program, fmt.Sprintf("./services/%s/cmd/%s", name, name))
			help, err := exec.CommandContext(t.Context(), program, "--help").CombinedOutput()
			if err != nil {
				t.Fatalf("--help: %v\n%s", err, help)
			}
			known := variable.FindAllString(string(help), -1)
			for shape, args := range shapes {
				out, err := render(t, args...)
				if err != nil {
					t.Fatal(err)
				}
				for doc := range strings.SplitSeq(out, "\n---\n") {
					if !strings.Contains(doc, "\nkind: ConfigMap\n") || !strings.Contains(doc, "component: "+name+"\n") {
						continue
					}
					_, data, _ := strings.Cut(doc, "\ndata:\n")
					for line := range strings.Lines(data) {
						key, _, ok := strings.Cut(strings.TrimSpace(line), ":")
						if ok && !slices.Contains(known, "$"+key) {
							t.Errorf("%s: the chart sets %s, which %s --help does not name", shape, key, name)
						}
					}
				}
			}
		})
	}
}
