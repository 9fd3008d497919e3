-- +goose NO TRANSACTION
-- +goose Up

-- An order line is known by its channel too: two channels may use the same order number. What a requested reservation holds is decided by the ledger, and its
-- events alone do not tell: held of such SKUs is taken from the newest level.
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
            WHERE kind IN ('sale_recorded', 'sale_cancelled', 'shipment_confirmed', 'reservation_placed', 'reservation_released',
                    'inbound_expected', 'inbound_cancelled', 'transfer_shipped', 'transfer_received')
                OR (kind = 'receipt_received' AND reference != '')
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
