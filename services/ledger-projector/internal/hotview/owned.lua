-- Writes fields of meta, for the owner alone. KEYS: meta. ARGV: owner, fields and values.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 'owner' end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 'applied'
