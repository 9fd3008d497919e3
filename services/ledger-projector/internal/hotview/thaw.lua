-- Gives a frozen generation back. KEYS: meta. ARGV: who froze it.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 'owner' end
redis.call('HSET', KEYS[1], 'owner', '')
redis.call('HDEL', KEYS[1], 'frozen_until')
return 'done'
