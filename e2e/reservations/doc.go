// Package reservations tests reservations through the services that make them: ingest, which asks and answers, and the ledger-projector, which decides.
package reservations
