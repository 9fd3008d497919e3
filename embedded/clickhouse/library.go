package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Version is the version of the npm packages that hold the engine's library.
const Version = "26.5.3"

// LibraryEnv names the environment variable that holds the path of the library.
const LibraryEnv = "ONHAND_CHDB_LIBRARY"

// ErrNoLibrary reports that the engine's library is nowhere to be found. Its
// text says where to get it.
var ErrNoLibrary = errors.New("the ClickHouse engine's library (libchdb) was not found")

// PackageName is the npm package that holds the library for a platform, or an
// error for a platform that has none.
func PackageName(goos, goarch string) (string, error) {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[goarch]
	switch {
	case arch != "" && goos == "linux":
		return "@chdb/lib-linux-" + arch + "-gnu", nil
	case arch != "" && goos == "darwin":
		return "@chdb/lib-darwin-" + arch, nil
	}
	return "", fmt.Errorf("there is no ClickHouse engine library for %s/%s; use a ClickHouse server instead", goos, goarch)
}

// Find returns the library's path. It looks at path when it is not empty, else
// at the environment variable LibraryEnv, else in .parts of dir (may be empty),
// of the working directory, and of the executable's directory and its parents.
// The error is an ErrNoLibrary that says what to do.
func Find(path, dir string) (string, error) {
	for _, named := range []struct{ what, path string }{{"the setting", path}, {LibraryEnv, os.Getenv(LibraryEnv)}} {
		if named.path == "" {
			continue
		}
		if _, err := os.Stat(named.path); err != nil {
			return "", fmt.Errorf("%w: %s names %s: %w", ErrNoLibrary, named.what, named.path, errors.Unwrap(err))
		}
		return named.path, nil
	}
	pkg, err := PackageName(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	below := filepath.Join("node_modules", filepath.FromSlash(pkg), "libchdb.so")
	var roots []string
	if dir != "" {
		roots = append(roots, dir)
	}
	if wd, err := os.Getwd(); err == nil {
		roots = append(roots, parents(wd)...)
	}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		roots = append(roots, parents(filepath.Dir(exe))...)
	}
	for _, root := range roots {
		file := filepath.Join(root, ".parts", below)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w: run `make parts`, or `npm install --prefix .parts %s@%s` in the project's directory, or set %s to the path of libchdb.so",
		ErrNoLibrary, pkg, Version, LibraryEnv)
}

// parents lists dir and the directories above it, nearest first.
func parents(dir string) []string {
	list := []string{dir}
	for {
		up := filepath.Dir(dir)
		if up == dir || len(list) > 8 {
			return list
		}
		dir, list = up, append(list, up)
	}
}

// Install puts the library into dir/.parts with npm and returns its path. The
// caller tells the user first: it is a download of about 170 MB.
func Install(ctx context.Context, dir string) (string, error) {
	pkg, err := PackageName(runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	prefix := filepath.Join(dir, ".parts")
	file := filepath.Join(prefix, "node_modules", filepath.FromSlash(pkg), "libchdb.so")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("install the ClickHouse engine: npm is not installed; install Node.js, or set %s to the path of a libchdb.so", LibraryEnv)
	}
	if err := os.MkdirAll(prefix, 0o755); err != nil {
		return "", fmt.Errorf("install the ClickHouse engine: %w", err)
	}
	cmd := exec.CommandContext(ctx, npm, "install", "--prefix", prefix, "--no-audit", "--no-fund", "--loglevel=error", pkg+"@"+Version)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install the ClickHouse engine: npm install %s@%s: %w\n%s", pkg, Version, err, strings.TrimSpace(string(out)))
	}
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("install the ClickHouse engine: npm succeeded, but %s is missing", file)
	}
	return file, nil
}
