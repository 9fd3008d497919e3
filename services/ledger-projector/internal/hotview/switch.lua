-- Makes a rebuilt generation the live one: when the old one is still frozen by the caller, and both are at the same offset.
-- KEYS: live, old meta, new meta, old outbox, new outbox. ARGV: old prefix, new prefix, who froze, who rebuilt, and whether all levels are to be
-- emitted again (1), whether the old one may be at any offset (1), and whether the count of units oversold is taken over (1).
local live = redis.call('GET', KEYS[1])
if live == ARGV[2] then return 'done' end
if live ~= ARGV[1] and not (live == false and not string.find(ARGV[1], ':g%d+:$')) then return 'moved' end
local new = redis.call('HMGET', KEYS[3], 'owner', 'offset')
if new[1] ~= ARGV[4] then return 'owner' end
local emitted = '-1'
if redis.call('EXISTS', KEYS[2]) == 1 then
  local old = redis.call('HMGET', KEYS[2], 'owner', 'offset', 'emitted', 'levels')
  if old[1] ~= ARGV[3] then return 'thawed' end
  if old[2] ~= new[2] and ARGV[6] ~= '1' then return 'offset' end
  emitted = old[3]
  if old[4] then redis.call('HSET', KEYS[3], 'levels', old[4]) else redis.call('HDEL', KEYS[3], 'levels') end
  redis.call('HSET', KEYS[2], 'owner', '', 'moved_to', ARGV[2])
  redis.call('HDEL', KEYS[2], 'frozen_until')
  if ARGV[7] == '1' then redis.call('HSET', KEYS[3], 'oversold', redis.call('HGET', KEYS[2], 'oversold')) end
end
if ARGV[5] == '1' then emitted = '-1' end
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('RENAME', KEYS[4], KEYS[5]) end
redis.call('HSET', KEYS[3], 'emitted', emitted, 'owner', '')
redis.call('SET', KEYS[1], ARGV[2])
return 'done'
