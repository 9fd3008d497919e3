-- +goose NO TRANSACTION
-- +goose Up

CREATE TABLE IF NOT EXISTS stock_events (
    event_id String,
    kind LowCardinality(String),
    sku String,
    location LowCardinality(String),
    to_location LowCardinality(String),
    channel LowCardinality(String),
    order_id String,
    line_id String,
    quantity Int64,
    unit_price Nullable(Decimal(38, 9)),
    unit_cost Nullable(Decimal(38, 9)),
    currency LowCardinality(String),
    disposition LowCardinality(String),
    reason String,
    reference String,
    reservation_id String,
    restocked_by_channel Bool,
    source LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    received_at DateTime64(6, 'UTC'),
    expires_at DateTime64(6, 'UTC'),
    as_of DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (sku, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS stock_levels (
    sku String,
    deleted Bool,
    version Int64,
    source_offset Int64,
    available Int64,
    unassigned Int64,
    on_hand Int64,
    committed Int64,
    held Int64,
    inbound Int64,
    unsellable Int64,
    safety_stock Int64,
    `locations.location` Array(LowCardinality(String)),
    `locations.on_hand` Array(Int64),
    `locations.committed` Array(Int64),
    `locations.held` Array(Int64),
    `locations.inbound` Array(Int64),
    `locations.unsellable` Array(Int64),
    `locations.safety_stock` Array(Int64),
    `sold.channel` Array(LowCardinality(String)),
    `sold.units` Array(Int64),
    `restored.channel` Array(LowCardinality(String)),
    `restored.units` Array(Int64),
    event_id String,
    event_kind LowCardinality(String),
    received_at DateTime64(6, 'UTC'),
    oldest_received_at DateTime64(6, 'UTC'),
    applied_at DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (sku, version, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS channel_targets (
    sku String,
    channel LowCardinality(String),
    external_id String,
    withdrawn Bool,
    quantity Int64,
    available Int64,
    level_version Int64,
    source_offset Int64,
    settings_version Int64,
    mode LowCardinality(String),
    sold Int64,
    restored Int64,
    `explanation.step` Array(LowCardinality(String)),
    `explanation.units` Array(Int64),
    `explanation.detail` Array(String),
    received_at DateTime64(6, 'UTC'),
    oldest_received_at DateTime64(6, 'UTC'),
    decided_at DateTime64(6, 'UTC'),
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (sku, channel, decided_at, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS channel_writes (
    write_id String,
    sku String,
    channel LowCardinality(String),
    external_id String,
    operation LowCardinality(String),
    quantity Int64,
    delta Int64,
    expected Int64,
    outcome LowCardinality(String),
    error_code LowCardinality(String),
    error_detail String,
    shown Int64,
    shown_known Bool,
    attempts Int64,
    level_version Int64,
    source_offset Int64,
    settings_version Int64,
    oldest_received_at DateTime64(6, 'UTC'),
    received_at DateTime64(6, 'UTC'),
    decided_at DateTime64(6, 'UTC'),
    sent_at DateTime64(6, 'UTC'),
    acked_at DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (channel, sku, source_offset, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS orders (
    order_id String,
    channel LowCardinality(String),
    currency LowCardinality(String),
    ship_country LowCardinality(String),
    ship_region LowCardinality(String),
    ship_postal_code String,
    customer_ref String,
    `lines.line_id` Array(String),
    `lines.sku` Array(String),
    `lines.quantity` Array(Int64),
    `lines.unit_price` Array(Nullable(Decimal(38, 9))),
    `lines.location` Array(LowCardinality(String)),
    placed_at DateTime64(6, 'UTC'),
    received_at DateTime64(6, 'UTC'),
    ship_by DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (channel, placed_at, order_id, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS stock_alerts (
    alert_id String,
    kind LowCardinality(String),
    sku String,
    location LowCardinality(String),
    channel LowCardinality(String),
    units Int64,
    cause String,
    message String,
    raised_by LowCardinality(String),
    at DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (kind, at, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS rejected_records (
    source_topic LowCardinality(String),
    source_partition Int32,
    source_offset Int64,
    key String,
    value String,
    reason LowCardinality(String),
    detail String,
    rejected_by LowCardinality(String),
    at DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (reason, at, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS catalog_listings (
    sku String,
    deleted Bool,
    title String,
    brand LowCardinality(String),
    category LowCardinality(String),
    unit_cost Nullable(Decimal(38, 9)),
    currency LowCardinality(String),
    `channels.channel` Array(LowCardinality(String)),
    `channels.external_id` Array(String),
    `channels.price` Array(Nullable(Decimal(38, 9))),
    `channels.currency` Array(LowCardinality(String)),
    `channels.paused` Array(Bool),
    `components.sku` Array(String),
    `components.quantity` Array(Int64),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (sku, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS catalog_settings (
    kind LowCardinality(String),
    id String,
    deleted Bool,
    spec String,
    applied_by LowCardinality(String),
    applied_at DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (kind, id, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;
