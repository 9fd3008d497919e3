-- +goose NO TRANSACTION
-- +goose Up

CREATE TABLE IF NOT EXISTS exposure_books (
    sku String,
    phase LowCardinality(String),
    level_version Int64,
    available Int64,
    exposed Int64,
    known Bool,
    shortage Int64,
    `channels.channel` Array(LowCardinality(String)),
    `channels.exposure` Array(Int64),
    `channels.exposure_known` Array(Bool),
    `channels.shown` Array(Int64),
    `channels.shown_known` Array(Bool),
    `channels.share` Array(Int64),
    `channels.open_write` Array(String),
    decided_at DateTime64(6, 'UTC'),
    partition Int32,
    offset Int64,
    appended_at DateTime64(6, 'UTC')
) ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (sku, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- How exposure was kept for each SKU, from one decision to the next. slack is null while exposure is not known at every channel, and in pooled mode.
CREATE OR REPLACE VIEW exposure_by_sku AS
SELECT
    sku, phase AS mode, level_version, available, exposed, known,
    if(known AND phase != 'pooled', available - exposed, NULL) AS slack,
    shortage, decided_at AS at,
    leadInFrame(decided_at, 1, toDateTime64('2299-12-31 00:00:00', 6, 'UTC')) OVER
        (PARTITION BY sku ORDER BY offset ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS until,
    offset
FROM exposure_books;

-- The same channel by channel, while exposure was kept in books: what each could still report as sold.
CREATE OR REPLACE VIEW exposure_by_channel AS
SELECT
    s.sku AS sku, channel, s.mode AS mode,
    if(exposure_known, exposure, NULL) AS exposure,
    if(shown_known, shown, NULL) AS shown,
    share, open_write, s.available AS available, s.exposed AS exposed, s.slack AS slack, s.at AS at, s.until AS until
FROM
(
    SELECT
        sku, offset, channels.channel AS channel, channels.exposure AS exposure, channels.exposure_known AS exposure_known, channels.shown AS shown,
        channels.shown_known AS shown_known, channels.share AS share, channels.open_write AS open_write
    FROM exposure_books
    ARRAY JOIN channels.channel, channels.exposure, channels.exposure_known, channels.shown, channels.shown_known, channels.share, channels.open_write
) AS c
INNER JOIN exposure_by_sku AS s ON c.sku = s.sku AND c.offset = s.offset;

-- An order is known by its channel too: two channels may use the same order number. A return that names no channel takes its order's where only one channel has one of
-- that number; else it has no price.
CREATE OR REPLACE VIEW sales AS
SELECT
    day, channel, sku, currency,
    uniqExactIf(order_id, kind = 'sale_recorded') AS orders,
    sumIf(quantity, kind = 'sale_recorded') AS units_sold,
    sumIf(quantity, kind = 'sale_cancelled') AS units_cancelled,
    sumIf(quantity, kind = 'return_received') AS units_returned,
    units_sold - units_cancelled - units_returned AS units_net,
    sumIf(amount, kind = 'sale_recorded') AS gross,
    sumIf(amount, kind = 'sale_cancelled') AS cancelled,
    sumIf(amount, kind = 'return_received') AS returned,
    gross - cancelled - returned AS net,
    sumIf(quantity, unpriced) AS units_without_price
FROM
(
    SELECT
        toDate(if(toUnixTimestamp64Micro(e.occurred_at) = 0, e.received_at, e.occurred_at), 'UTC') AS day,
        if(e.channel = '', s.sale_channel, e.channel) AS channel,
        e.sku AS sku,
        if(e.currency = '', s.sale_currency, e.currency) AS currency,
        e.order_id AS order_id, e.kind AS kind, e.quantity AS quantity,
        coalesce(e.unit_price, s.sale_price) IS NULL AS unpriced,
        ifNull(coalesce(e.unit_price, s.sale_price), 0) * e.quantity AS amount
    FROM
    (
        SELECT *, CAST(channel, 'String') AS of_channel FROM events WHERE kind IN ('sale_recorded', 'sale_cancelled', 'return_received')
    ) AS e
    LEFT JOIN
    (
        SELECT
            sku, order_id, arrayJoin(arrayDistinct([CAST(channel, 'String'), ''])) AS for_channel, CAST(any(channel), 'String') AS sale_channel,
            CAST(any(currency), 'String') AS sale_currency,
            sum(unit_price * quantity) / nullIf(sumIf(quantity, unit_price IS NOT NULL), 0) AS sale_price
        FROM events
        WHERE kind = 'sale_recorded' AND order_id != ''
        GROUP BY sku, order_id, for_channel
        HAVING uniqExact(channel) = 1
    ) AS s ON e.sku = s.sku AND e.order_id = s.order_id AND e.of_channel = s.for_channel
)
GROUP BY day, channel, sku, currency;

-- Rows against distinct records: repeated is 0 when no record was inserted twice.
CREATE OR REPLACE VIEW reconcile AS
SELECT 'stock_events' AS table, 'stock.events' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM stock_events
UNION ALL
SELECT 'stock_levels' AS table, 'stock.levels' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM stock_levels
UNION ALL
SELECT 'channel_writes' AS table, 'channel.writes' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM channel_writes
UNION ALL
SELECT 'orders' AS table, 'orders' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM orders
UNION ALL
SELECT 'stock_alerts' AS table, 'stock.alerts' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM stock_alerts
UNION ALL
SELECT 'rejected_records' AS table, 'stock.rejected' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM rejected_records
UNION ALL
SELECT 'catalog_listings' AS table, 'catalog.listings' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM catalog_listings
UNION ALL
SELECT 'catalog_settings' AS table, 'catalog.settings' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM catalog_settings
UNION ALL
SELECT 'exposure_books' AS table, 'exposure.books' AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM exposure_books
UNION ALL
SELECT 'channel_targets' AS table, CAST(topic, 'String') AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM channel_targets GROUP BY topic;
