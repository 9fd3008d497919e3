package analytics

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/pressly/goose/v3"
)

// migrations is the schema, as steps. Every statement is idempotent (IF NOT EXISTS, OR REPLACE): two instances that start at once need no lock, because each
// leaves the same schema behind, whatever the order. A step recorded twice is recorded once as far as goose is concerned.
//
//go:embed migrations/*.sql
var migrations embed.FS

// Migrate makes the database if it does not exist and brings its schema up to date. It can be called again at any time, and by several at once.
func Migrate(ctx context.Context, cfg ClickHouse) (err error) {
	if err := run(ctx, cfg, "default", func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS "+cfg.Database)
		return err
	}); err != nil {
		return fmt.Errorf("create database %s: %w", cfg.Database, err)
	}
	err = run(ctx, cfg, cfg.Database, func(db *sql.DB) error {
		steps, err := fs.Sub(migrations, "migrations")
		if err != nil {
			return err
		}
		p, err := goose.NewProvider(goose.DialectClickHouse, db, steps)
		if err != nil {
			return err
		}
		_, err = p.Up(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate database %s: %w", cfg.Database, err)
	}
	return nil
}

func run(ctx context.Context, cfg ClickHouse, database string, f func(*sql.DB) error) (err error) {
	opts, err := cfg.options(database)
	if err != nil {
		return err
	}
	opts.MaxOpenConns, opts.MaxIdleConns = 0, 0 // database/sql has its own pool
	db := clickhouse.OpenDB(opts)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.PingContext(ctx); err != nil {
		return err
	}
	return f(db)
}
