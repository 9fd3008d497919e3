-- +goose NO TRANSACTION
-- +goose Up

-- Under books of exposure: which write a target grants, and the most units that the channel can still report as sold once it is booked.
ALTER TABLE channel_targets ADD COLUMN IF NOT EXISTS write_id String AFTER withdrawn, ADD COLUMN IF NOT EXISTS exposure Int64 AFTER write_id;

-- When the answer that told what is shown came, and whether a write of unknown outcome can no longer be applied.
ALTER TABLE channel_writes ADD COLUMN IF NOT EXISTS shown_at DateTime64(6, 'UTC') AFTER shown_known, ADD COLUMN IF NOT EXISTS settled Bool AFTER outcome;
