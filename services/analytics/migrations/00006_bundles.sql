-- +goose NO TRANSACTION
-- +goose Up

-- A bundle's own event has the bundle's SKU here, too: it is what a customer bought, and moves no stock. Events of its components have it as well: they move stock, and nobody
-- bought them as such.
ALTER TABLE stock_events ADD COLUMN IF NOT EXISTS bundle String AFTER reservation_id;

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

-- Sales, cancellations and returns by day (UTC, of the source's clock), channel, SKU and currency: as customers bought, so that a bundle counts as itself and its components do
-- not count again. Each counts on the day it happened. A cancellation or return without a price takes its sale's average one.
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
        SELECT *, CAST(channel, 'String') AS of_channel FROM events WHERE kind IN ('sale_recorded', 'sale_cancelled', 'return_received') AND bundle IN ('', sku)
    ) AS e
    LEFT JOIN
    (
        SELECT
            sku, order_id, arrayJoin(arrayDistinct([CAST(channel, 'String'), ''])) AS for_channel, CAST(any(channel), 'String') AS sale_channel,
            CAST(any(currency), 'String') AS sale_currency,
            sum(unit_price * quantity) / nullIf(sumIf(quantity, unit_price IS NOT NULL), 0) AS sale_price
        FROM events
        WHERE kind = 'sale_recorded' AND order_id != '' AND bundle IN ('', sku)
        GROUP BY sku, order_id, for_channel
        HAVING uniqExact(channel) = 1
    ) AS s ON e.sku = s.sku AND e.order_id = s.order_id AND e.of_channel = s.for_channel
)
GROUP BY day, channel, sku, currency;

-- Units that left in bundles, by day (UTC, of the source's clock), component and bundle: beside the sales of the component itself, what its shelf served.
CREATE OR REPLACE VIEW bundle_components AS
SELECT
    toDate(if(toUnixTimestamp64Micro(occurred_at) = 0, received_at, occurred_at), 'UTC') AS day, sku, bundle,
    sumIf(quantity, kind = 'sale_recorded') AS units_sold,
    sumIf(quantity, kind = 'sale_cancelled') AS units_cancelled,
    sumIf(quantity, kind = 'return_received') AS units_returned,
    units_sold - units_cancelled - units_returned AS units_net
FROM events
WHERE bundle NOT IN ('', sku) AND kind IN ('sale_recorded', 'sale_cancelled', 'return_received')
GROUP BY day, sku, bundle;

-- Turnover and days of inventory of each SKU in [from, to): average inventory is the integral over time, not the mean of the two ends. Of a component, what left in bundles counts.
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
    WHERE bundle != sku AND (kind IN ('sale_recorded', 'sale_cancelled') OR (kind = 'return_received' AND disposition = 'restock'))
        AND if(toUnixTimestamp64Micro(occurred_at) = 0, received_at, occurred_at) >= {from:DateTime64(6, 'UTC')}
        AND if(toUnixTimestamp64Micro(occurred_at) = 0, received_at, occurred_at) < {to:DateTime64(6, 'UTC')}
    GROUP BY sku
) AS s ON i.sku = s.sku
LEFT JOIN unit_costs AS c ON i.sku = c.sku;

-- Units sold of what could be sold in [from, to): opening on hand and what was received. Of a component, what left in bundles counts.
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
    WHERE bundle != sku AND kind IN ('receipt_received', 'sale_recorded', 'sale_cancelled', 'return_received')
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
WHERE bundle != sku AND (kind IN ('shipment_confirmed', 'receipt_received', 'stock_adjusted', 'transfer_shipped', 'transfer_received')
    OR (kind = 'return_received' AND disposition = 'restock'));

-- The ledger recomputed from the events, beside the newest levels. An order line is known by its channel too: two channels may use the same order number. What a requested reservation
-- holds is decided by the ledger, and its events alone do not tell: held of such SKUs is taken from the newest level. A bundle has no stock and so no row.
CREATE OR REPLACE VIEW ledger_from_events AS
SELECT
    u.sku AS sku, u.events AS events,
    u.units_sold AS units_sold, u.units_cancelled AS units_cancelled, u.units_shipped AS units_shipped, u.units_returned AS units_returned,
    u.units_restocked AS units_restocked, u.units_received AS units_received, u.units_adjusted AS units_adjusted, u.counts AS counts,
    h.on_hand AS on_hand, i.committed AS committed, if(u.requests > 0, l.held, i.held) AS held, i.inbound AS inbound, u.unsellable AS unsellable, s.safety_stock AS safety_stock,
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
        countIf(kind = 'reservation_requested') AS requests,
        sumIf(quantity, kind = 'return_received' AND disposition IN ('refurbish', 'quarantine')) AS unsellable
    FROM events
    WHERE bundle != sku
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
        SELECT sku, class, source, item, line, if(max(closed), 0, greatest(0, sum(units))) AS open
        FROM
        (
            SELECT
                sku,
                multiIf(kind IN ('sale_recorded', 'sale_cancelled', 'shipment_confirmed'), 'sale',
                    kind IN ('reservation_placed', 'reservation_released'), 'hold',
                    kind IN ('transfer_shipped', 'transfer_received'), 'transfer', 'inbound') AS class,
                multiIf(class = 'sale', order_id, class = 'hold', reservation_id, reference) AS item,
                if(class = 'sale', CAST(channel, 'String'), '') AS source,
                if(class = 'sale', line_id, '') AS line,
                if(kind IN ('sale_recorded', 'reservation_placed', 'inbound_expected', 'transfer_shipped'), quantity, -quantity) AS units,
                kind = 'reservation_released' AND quantity = 0 AS closed
            FROM events
            WHERE bundle != sku AND (kind IN ('sale_recorded', 'sale_cancelled', 'shipment_confirmed', 'reservation_placed', 'reservation_released',
                    'inbound_expected', 'inbound_cancelled', 'transfer_shipped', 'transfer_received')
                OR (kind = 'receipt_received' AND reference != ''))
        )
        GROUP BY sku, class, source, item, line
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
