// Package program is what the programs of all services have in common: their settings by flag, environment variable or YAML file, the addresses they
// listen on, the API keys they ask for, and the order in which they start and stop.
//
//	var f struct {
//		program.Settings
//		program.API
//		Ingest ingest.Config `embed:""`
//	}
//	program.Parse(&f, program.About{Name: "ingest", …})
package program
