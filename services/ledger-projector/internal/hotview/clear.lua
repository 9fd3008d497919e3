-- Deletes keys of the partition, for the owner alone. KEYS: meta, the keys. ARGV: owner.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 'owner' end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 'applied'
