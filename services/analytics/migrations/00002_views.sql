-- +goose NO TRANSACTION
-- +goose Up

-- Events as the ledger counts them: without those that it rejected, and each id once (the first in its partition).
CREATE OR REPLACE VIEW events AS
SELECT *
FROM stock_events
WHERE (partition, offset) NOT IN
(
    SELECT source_partition, source_offset FROM rejected_records WHERE source_topic = 'stock.events' AND rejected_by != 'analytics'
)
ORDER BY partition, offset
LIMIT 1 BY partition, event_id;

-- The newest state of each SKU.
CREATE OR REPLACE VIEW current_levels AS
SELECT *
FROM stock_levels
WHERE NOT deleted AND (sku, version) IN (SELECT sku, max(version) FROM stock_levels GROUP BY sku)
ORDER BY sku, offset DESC
LIMIT 1 BY sku;

-- The newest listing of each SKU that has one.
CREATE OR REPLACE VIEW current_listings AS
SELECT *
FROM (SELECT * FROM catalog_listings ORDER BY sku, offset DESC LIMIT 1 BY sku)
WHERE NOT deleted;

-- What one unit costs: as last received, or else as the listing says.
CREATE OR REPLACE VIEW unit_costs AS
SELECT sku, argMax(cost, (rank, seq)) AS unit_cost, argMax(money, (rank, seq)) AS currency
FROM
(
    SELECT sku, assumeNotNull(unit_cost) AS cost, currency AS money, 2 AS rank, offset AS seq
    FROM events WHERE kind = 'receipt_received' AND unit_cost IS NOT NULL
    UNION ALL
    SELECT sku, assumeNotNull(unit_cost) AS cost, currency AS money, 1 AS rank, offset AS seq
    FROM current_listings WHERE unit_cost IS NOT NULL
)
GROUP BY sku;

-- Sales, cancellations and returns by day (UTC, of the source's clock), channel, SKU and currency. Each counts on the day it happened. A cancellation or
-- return without a price takes its sale's average one.
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
        SELECT * FROM events WHERE kind IN ('sale_recorded', 'sale_cancelled', 'return_received')
    ) AS e
    LEFT JOIN
    (
        SELECT
            sku, order_id, CAST(any(channel), 'String') AS sale_channel, CAST(any(currency), 'String') AS sale_currency,
            sum(unit_price * quantity) / nullIf(sumIf(quantity, unit_price IS NOT NULL), 0) AS sale_price
        FROM events
        WHERE kind = 'sale_recorded' AND order_id != ''
        GROUP BY sku, order_id
    ) AS s ON e.sku = s.sku AND e.order_id = s.order_id
)
GROUP BY day, channel, sku, currency;

-- On hand of each SKU from one moment to the next, by the clock of the events (which a replay of history keeps). A late event does not rewrite the past.
CREATE OR REPLACE VIEW inventory AS
SELECT
    sku, version, on_hand, available, at,
    leadInFrame(at, 1, toDateTime64('2299-12-31 00:00:00', 6, 'UTC')) OVER
        (PARTITION BY sku ORDER BY version ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS until
FROM
(
    SELECT
        l.sku AS sku, l.version AS version, l.on_hand AS on_hand, l.available AS available,
        max(multiIf(toUnixTimestamp64Micro(e.occurred_at) > 0, e.occurred_at, toUnixTimestamp64Micro(l.received_at) > 0, l.received_at, l.applied_at)) OVER
            (PARTITION BY l.sku ORDER BY l.version ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS at
    FROM
    (
        SELECT * FROM stock_levels WHERE NOT deleted ORDER BY sku, version, offset LIMIT 1 BY sku, version
    ) AS l
    LEFT JOIN (SELECT partition, offset, occurred_at FROM stock_events) AS e ON l.partition = e.partition AND l.source_offset = e.offset
);

-- Turnover and days of inventory of each SKU in [from, to): average inventory is the integral over time, not the mean of the two ends.
CREATE OR REPLACE VIEW turnover AS
SELECT
    i.sku AS sku,
    i.average_units AS average_units,
    c.unit_cost AS unit_cost,
    c.currency AS currency,
    if(c.currency = '' AND c.unit_cost = 0, NULL, multiplyDecimal(toDecimal128(i.average_units, 9), c.unit_cost, 9)) AS average_value,
    s.units AS units_sold_net,
    if(c.currency = '' AND c.unit_cost = 0, NULL, multiplyDecimal(toDecimal128(s.units, 9), c.unit_cost, 9)) AS cost_of_goods_sold,
    dateDiff('microsecond', {from:DateTime64(6, 'UTC')}, {to:DateTime64(6, 'UTC')}) / 86400e6 AS days,
    s.units / nullIf(i.average_units, 0) * 365 / days AS turnover_per_year,
    i.average_units / nullIf(s.units, 0) * days AS days_of_inventory
FROM
(
    SELECT
        sku,
        sum(toFloat64(on_hand) * greatest(0, dateDiff('microsecond', greatest(at, {from:DateTime64(6, 'UTC')}), least(until, {to:DateTime64(6, 'UTC')}))))
            / dateDiff('microsecond', {from:DateTime64(6, 'UTC')}, {to:DateTime64(6, 'UTC')}) AS average_units
    FROM inventory
    WHERE at < {to:DateTime64(6, 'UTC')} AND until > {from:DateTime64(6, 'UTC')}
    GROUP BY sku
) AS i
LEFT JOIN
(
    SELECT sku, sum(multiIf(kind = 'sale_recorded', quantity, kind = 'sale_cancelled', -quantity, -quantity)) AS units
    FROM events
    WHERE (kind IN ('sale_recorded', 'sale_cancelled') OR (kind = 'return_received' AND disposition = 'restock'))
        AND if(toUnixTimestamp64Micro(occurred_at) = 0, received_at, occurred_at) >= {from:DateTime64(6, 'UTC')}
        AND if(toUnixTimestamp64Micro(occurred_at) = 0, received_at, occurred_at) < {to:DateTime64(6, 'UTC')}
    GROUP BY sku
) AS s ON i.sku = s.sku
LEFT JOIN unit_costs AS c ON i.sku = c.sku;

-- Time that each SKU was listed on a channel in [from, to), and the part of it with nothing to sell there. out: the channel's stock was used up; hidden: there was
-- stock, and a rule kept it off the channel.
CREATE OR REPLACE VIEW stockouts AS
SELECT
    sku, channel,
    sumIf(seconds, listed) AS listed_seconds,
    sumIf(seconds, listed AND available <= 0) AS out_seconds,
    sumIf(seconds, listed AND available > 0 AND quantity = 0) AS hidden_seconds,
    out_seconds / nullIf(listed_seconds, 0) AS stockout_rate
FROM
(
    SELECT
        sku, channel, NOT withdrawn AS listed, available, quantity,
        greatest(0, dateDiff('microsecond', greatest(decided_at, {from:DateTime64(6, 'UTC')}), least(until, {to:DateTime64(6, 'UTC')}))) / 1e6 AS seconds
    FROM
    (
        SELECT
            sku, channel, withdrawn, available, quantity, decided_at,
            leadInFrame(decided_at, 1, {to:DateTime64(6, 'UTC')}) OVER
                (PARTITION BY sku, channel ORDER BY decided_at, offset ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS until
        FROM channel_targets
        WHERE decided_at < {to:DateTime64(6, 'UTC')}
    )
)
GROUP BY sku, channel
HAVING listed_seconds > 0;

-- One row for each event received in [from, to) and each other channel whose target took it in: how long until that channel acknowledged a write that carries
-- it. A coalesced event takes the acknowledgement of the write that covers it. Without one yet, acked is false and latency_ms is the wait so far.
CREATE OR REPLACE VIEW sync_latency AS
SELECT
    d.event_id AS event_id, d.sku AS sku, d.channel AS channel, d.kind AS kind, d.received_at AS received_at,
    toUnixTimestamp64Micro(w.first_acked_at) > 0 AS acked,
    w.first_acked_at AS acked_at,
    dateDiff('microsecond', d.received_at, if(acked, w.first_acked_at, now64(6, 'UTC'))) / 1000 AS latency_ms
FROM
(
    SELECT e.event_id AS event_id, e.sku AS sku, e.kind AS kind, e.offset AS offset, e.received_at AS received_at, e.target_channel AS channel
    FROM
    (
        SELECT e.event_id, e.sku, e.kind, e.offset, e.received_at, c.channel AS target_channel
        FROM
        (
            SELECT event_id, sku, kind, channel, offset, received_at FROM events
            WHERE received_at >= {from:DateTime64(6, 'UTC')} AND received_at < {to:DateTime64(6, 'UTC')}
        ) AS e
        INNER JOIN (SELECT DISTINCT sku, channel FROM channel_targets) AS c ON e.sku = c.sku
        WHERE c.channel != e.channel
    ) AS e
    ASOF INNER JOIN
    (
        SELECT sku, channel, source_offset, min(oldest_received_at) AS oldest FROM channel_targets WHERE NOT withdrawn GROUP BY sku, channel, source_offset
    ) AS t ON e.sku = t.sku AND e.target_channel = t.channel AND e.offset <= t.source_offset
    WHERE t.oldest <= e.received_at
) AS d
ASOF LEFT JOIN
(
    SELECT sku, channel, source_offset, min(acked_at) AS first_acked_at
    FROM channel_writes
    WHERE outcome = 'applied' AND toUnixTimestamp64Micro(acked_at) > 0
    GROUP BY sku, channel, source_offset
) AS w ON d.sku = w.sku AND d.channel = w.channel AND d.offset <= w.source_offset;

-- Percentiles of sync_latency by channel, in milliseconds.
CREATE OR REPLACE VIEW sync_latency_by_channel AS
SELECT
    channel, count() AS changes, countIf(NOT acked) AS unacknowledged,
    quantileTDigestIf(0.5)(latency_ms, acked) AS p50_ms, quantileTDigestIf(0.95)(latency_ms, acked) AS p95_ms,
    quantileTDigestIf(0.99)(latency_ms, acked) AS p99_ms, maxIf(latency_ms, acked) AS max_ms
FROM sync_latency(from = {from:DateTime64(6, 'UTC')}, to = {to:DateTime64(6, 'UTC')})
GROUP BY channel;

-- The same from the writes alone, cheaper: for each acknowledged write, from the oldest event in it to the acknowledgement.
CREATE OR REPLACE VIEW write_latency_by_channel AS
SELECT
    channel, count() AS writes, countIf(NOT acknowledged) AS unacknowledged,
    quantileTDigestIf(0.5)(ms, acknowledged) AS p50_ms, quantileTDigestIf(0.95)(ms, acknowledged) AS p95_ms,
    quantileTDigestIf(0.99)(ms, acknowledged) AS p99_ms, maxIf(ms, acknowledged) AS max_ms
FROM
(
    SELECT
        channel, outcome = 'applied' AND toUnixTimestamp64Micro(acked_at) > 0 AS acknowledged,
        dateDiff('microsecond', oldest_received_at, acked_at) / 1000 AS ms
    FROM channel_writes
    WHERE toUnixTimestamp64Micro(oldest_received_at) > 0 AND decided_at >= {from:DateTime64(6, 'UTC')} AND decided_at < {to:DateTime64(6, 'UTC')}
)
GROUP BY channel;

-- Moments at which a SKU's available fell below zero.
CREATE OR REPLACE VIEW oversells AS
SELECT sku, version, source_offset, event_id, -available AS units, applied_at
FROM
(
    SELECT
        sku, version, source_offset, event_id, available, applied_at,
        lagInFrame(available, 1, 0) OVER (PARTITION BY sku ORDER BY version ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
    FROM (SELECT * FROM stock_levels WHERE NOT deleted ORDER BY sku, version, offset LIMIT 1 BY sku, version)
)
WHERE available < 0 AND before >= 0;

-- Units sold of what could be sold in [from, to): opening on hand and what was received.
CREATE OR REPLACE VIEW sell_through AS
SELECT
    sku, sum(opening) AS opening_on_hand, sum(received) AS units_received, sum(sold) AS units_sold_net,
    units_sold_net / nullIf(opening_on_hand + units_received, 0) AS sell_through
FROM
(
    SELECT sku, argMax(on_hand, version) AS opening, toInt64(0) AS received, toInt64(0) AS sold
    FROM inventory WHERE at < {from:DateTime64(6, 'UTC')} GROUP BY sku
    UNION ALL
    SELECT
        sku, toInt64(0) AS opening, sumIf(quantity, kind = 'receipt_received') AS received,
        sumIf(quantity, kind = 'sale_recorded') - sumIf(quantity, kind IN ('sale_cancelled', 'return_received')) AS sold
    FROM events
    WHERE kind IN ('receipt_received', 'sale_recorded', 'sale_cancelled', 'return_received')
        AND if(toUnixTimestamp64Micro(occurred_at) = 0, received_at, occurred_at) >= {from:DateTime64(6, 'UTC')}
        AND if(toUnixTimestamp64Micro(occurred_at) = 0, received_at, occurred_at) < {to:DateTime64(6, 'UTC')}
    GROUP BY sku
)
GROUP BY sku;

-- Changes of on hand, each with the moment the units moved: the source's clock, but never after the record was appended.
CREATE OR REPLACE VIEW stock_moves AS
SELECT
    sku, location, kind, event_id,
    if(kind IN ('shipment_confirmed', 'transfer_shipped'), -quantity, quantity) AS units,
    least(multiIf(toUnixTimestamp64Micro(occurred_at) > 0, occurred_at, toUnixTimestamp64Micro(received_at) > 0, received_at, appended_at), appended_at) AS at
FROM events
WHERE kind IN ('shipment_confirmed', 'receipt_received', 'stock_adjusted', 'transfer_shipped', 'transfer_received')
    OR (kind = 'return_received' AND disposition = 'restock');

-- The newest count of each SKU and location.
CREATE OR REPLACE VIEW stock_counts AS
SELECT sku, location, argMax(quantity, (e.as_of, offset)) AS quantity, max(e.as_of) AS as_of
FROM events AS e
WHERE kind = 'stock_counted'
GROUP BY sku, location;

-- What the events of each SKU add up to, as the ledger counts: on hand is the newest count of each location and what moved after it; an order line,
-- reservation, purchase order or transfer is open as far as more went in than came out. The columns level_… are the newest level of the SKU, and differs
-- says whether the two disagree (while events are still on their way, or when one is wrong).
CREATE OR REPLACE VIEW ledger_from_events AS
SELECT
    u.sku AS sku, u.events AS events,
    u.units_sold AS units_sold, u.units_cancelled AS units_cancelled, u.units_shipped AS units_shipped, u.units_returned AS units_returned,
    u.units_restocked AS units_restocked, u.units_received AS units_received, u.units_adjusted AS units_adjusted, u.counts AS counts,
    h.on_hand AS on_hand, i.committed AS committed, i.held AS held, i.inbound AS inbound, u.unsellable AS unsellable, s.safety_stock AS safety_stock,
    on_hand - committed - held - safety_stock AS available,
    l.version AS level_version, l.on_hand AS level_on_hand, l.committed + l.unassigned AS level_committed, l.held AS level_held,
    l.inbound AS level_inbound, l.unsellable AS level_unsellable, l.safety_stock AS level_safety_stock, l.available AS level_available,
    (on_hand, committed, held, inbound, unsellable, safety_stock)
        != (level_on_hand, level_committed, level_held, level_inbound, level_unsellable, level_safety_stock) AS differs
FROM
(
    SELECT
        sku, count() AS events,
        sumIf(quantity, kind = 'sale_recorded') AS units_sold,
        sumIf(quantity, kind = 'sale_cancelled') AS units_cancelled,
        sumIf(quantity, kind = 'shipment_confirmed') AS units_shipped,
        sumIf(quantity, kind = 'return_received') AS units_returned,
        sumIf(quantity, kind = 'return_received' AND disposition = 'restock') AS units_restocked,
        sumIf(quantity, kind = 'receipt_received') AS units_received,
        sumIf(quantity, kind = 'stock_adjusted') AS units_adjusted,
        countIf(kind = 'stock_counted') AS counts,
        sumIf(quantity, kind = 'return_received' AND disposition IN ('refurbish', 'quarantine')) AS unsellable
    FROM events
    GROUP BY sku
) AS u
LEFT JOIN
(
    SELECT sku, sum(units) AS on_hand
    FROM
    (
        SELECT sku, quantity AS units FROM stock_counts
        UNION ALL
        SELECT m.sku AS sku, m.units AS units
        FROM stock_moves AS m LEFT JOIN stock_counts AS c ON m.sku = c.sku AND m.location = c.location
        WHERE m.at > c.as_of
    )
    GROUP BY sku
) AS h ON u.sku = h.sku
LEFT JOIN
(
    SELECT sku, sumIf(open, class = 'sale') AS committed, sumIf(open, class = 'hold') AS held, sumIf(open, class IN ('inbound', 'transfer')) AS inbound
    FROM
    (
        SELECT sku, class, item, line, if(max(closed), 0, greatest(0, sum(units))) AS open
        FROM
        (
            SELECT
                sku,
                multiIf(kind IN ('sale_recorded', 'sale_cancelled', 'shipment_confirmed'), 'sale',
                    kind IN ('reservation_placed', 'reservation_released'), 'hold',
                    kind IN ('transfer_shipped', 'transfer_received'), 'transfer', 'inbound') AS class,
                multiIf(class = 'sale', order_id, class = 'hold', reservation_id, reference) AS item,
                if(class = 'sale', line_id, '') AS line,
                if(kind IN ('sale_recorded', 'reservation_placed', 'inbound_expected', 'transfer_shipped'), quantity, -quantity) AS units,
                kind = 'reservation_released' AND quantity = 0 AS closed
            FROM events
            WHERE kind IN ('sale_recorded', 'sale_cancelled', 'shipment_confirmed', 'reservation_placed', 'reservation_released',
                    'inbound_expected', 'inbound_cancelled', 'transfer_shipped', 'transfer_received')
                OR (kind = 'receipt_received' AND reference != '')
        )
        GROUP BY sku, class, item, line
    )
    GROUP BY sku
) AS i ON u.sku = i.sku
LEFT JOIN
(
    SELECT sku, sum(safety) AS safety_stock
    FROM (SELECT sku, location, argMax(quantity, offset) AS safety FROM events WHERE kind = 'safety_stock_set' GROUP BY sku, location)
    GROUP BY sku
) AS s ON u.sku = s.sku
LEFT JOIN current_levels AS l ON u.sku = l.sku;

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
SELECT 'channel_targets' AS table, CAST(topic, 'String') AS topic, count() AS rows, uniqExact(partition, offset) AS records, rows - records AS repeated, max(appended_at) AS newest FROM channel_targets GROUP BY topic;
