-- Makes ARGV[1] the owner of the partition, and returns all that meta holds. A partition that Redis does not know begins at offset -1.
-- KEYS: meta. ARGV: owner, layout, dataset, topic id, fold.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'layout', ARGV[2], 'dataset', ARGV[3], 'topic_id', ARGV[4], 'fold', ARGV[5],
    'offset', -1, 'clock', 0, 'emitted', -1, 'oversold', 0, 'applied_at', 0)
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
return redis.call('HGETALL', KEYS[1])
