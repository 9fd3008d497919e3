#!/usr/bin/env bash
# All that `make lint` checks. Each step runs even when one before it failed; the exit status says whether any did.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
modules=$(go list -m -f '{{.Dir}}') # of the workspace
status=0
step() {
	echo "== $1"
	shift
	"$@" || status=1
}

unformatted() {
	local files
	files=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0r ls -d 2>/dev/null | xargs -r gofmt -l)
	[ -z "$files" ] || { echo "not formatted (gofmt -w): $files"; return 1; }
}

linters() {
	local failed=0 module
	for module in $modules; do
		(cd "$module" && golangci-lint run --config "$root/.golangci.yml" ./...) || failed=1
	done
	return $failed
}

# The vulnerability database is fetched from the network. Where it cannot be reached nothing was checked, and that is said.
vulnerabilities() {
	local out code module failed=0
	for module in $modules; do
		out=$(cd "$module" && govulncheck ./... 2>&1)
		code=$?
		if [ $code -eq 3 ]; then
			echo "$out"
			failed=1
		elif [ $code -ne 0 ]; then
			if grep -qiE 'fetching vulnerabilities|dial tcp|lookup |connection refused|timeout|Forbidden|403|502|503' <<<"$out"; then
				echo "NOT CHECKED: the vulnerability database cannot be reached from here."
				return 0
			fi
			echo "$out"
			failed=1
		fi
	done
	return $failed
}

step "gofmt" unformatted
step "go vet" go vet work
step "golangci-lint" linters
step "buf lint" bash -c 'cd schemas && buf lint'
step "govulncheck" vulnerabilities
[ $status -eq 0 ] && echo "lint: clean" || echo "lint: faults above"
exit $status
