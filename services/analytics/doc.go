// Package analytics keeps the history of all topics in ClickHouse, exactly once, and answers questions about it.
//
// Every topic of Onhand has a table of its own, one row a record, with the record's partition and offset beside the values. Rows go in as columns
// of one block, about once a second for each table. What a block holds is fixed before it is sent: the group's offset of each partition in it is
// committed with the block's offset ranges, its intent, as metadata; the block carries a token made from them; after ClickHouse has it, the offsets
// move on. Whoever is given a partition whose offset still carries an intent sends exactly that block again, with its token, before going on. So a crash
// at any point repeats no row and loses none: see docs/decisions/0003-analytics-insert-intents.md.
//
// Views over the tables answer what a brand asks first: sales, turnover, stockouts, latency, and whether the sums agree with the ledger. They are
// plain SQL, open to any ClickHouse client; the HTTP routes are a thin layer over them. docs/analytics.md describes tables and views.
package analytics
