// Package rules holds the house rules of the repository as tests: who may import whom, that each module builds alone and names why it needs
// what, that generated files and the reference are in step, that the schemas stay compatible, and that the chart renders what Kubernetes
// accepts and the services understand. The rules are read by people in CONTRIBUTING.md.
package rules
