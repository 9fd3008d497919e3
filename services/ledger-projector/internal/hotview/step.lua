-- One batch of one partition: all of it, or nothing.
-- KEYS: meta, locations, skus, outbox, journal, digest, then the journal chunks to append to, those to delete, and the hash of each changed SKU.
-- ARGV: owner, prev, last, clock, emitted, oversold, applied_at, sent, levels, #locations, #outbox, #appends, #drops, #sums, then for each location its name; for each
-- outbox entry its bytes; for each append its field, the length it must have, and its bytes; for each drop its field; for each run of
-- digest sums its place in bytes, and its bytes; for each SKU the number
-- of arguments that follow, negative with the SKU's name before them when it is new, and its fields and values.
local meta = redis.call('HMGET', KEYS[1], 'owner', 'offset')
if meta[1] == false then return 'stale' end
if meta[1] ~= ARGV[1] then return 'owner' end
if meta[2] ~= ARGV[2] then
  if tonumber(meta[2]) >= tonumber(ARGV[3]) then return 'done' end
  return 'stale'
end
local locations, outbox, appends, drops, sums = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local a, k = 15, 7
for i = 1, locations do
  redis.call('RPUSH', KEYS[2], ARGV[a])
  a = a + 1
end
local sent = tonumber(ARGV[8])
if sent > 0 then redis.call('LTRIM', KEYS[4], sent, -1) end
for i = 1, outbox do
  redis.call('RPUSH', KEYS[4], ARGV[a])
  a = a + 1
end
for i = 1, appends do
  local have, want = redis.call('STRLEN', KEYS[k]), tonumber(ARGV[a + 1])
  if want == 0 then
    redis.call('SET', KEYS[k], ARGV[a + 2])
  else
    if have ~= want then -- an earlier script died half-way
      redis.call('SET', KEYS[k], redis.call('GETRANGE', KEYS[k], 0, want - 1))
    end
    redis.call('APPEND', KEYS[k], ARGV[a + 2])
  end
  redis.call('HSET', KEYS[5], ARGV[a], want + #ARGV[a + 2])
  a, k = a + 3, k + 1
end
for i = 1, drops do
  redis.call('HDEL', KEYS[5], ARGV[a])
  redis.call('UNLINK', KEYS[k])
  a, k = a + 1, k + 1
end
for i = 1, sums do
  redis.call('SETRANGE', KEYS[6], ARGV[a], ARGV[a + 1])
  a = a + 2
end
for i = k, #KEYS do
  local n = tonumber(ARGV[a])
  if n < 0 then
    n = -n
    a = a + 1
    redis.call('DEL', KEYS[i])
    redis.call('SADD', KEYS[3], ARGV[a])
  end
  redis.call('HSET', KEYS[i], unpack(ARGV, a + 1, a + n))
  a = a + n + 1
end
redis.call('HSET', KEYS[1], 'clock', ARGV[4], 'emitted', ARGV[5], 'levels', ARGV[9], 'oversold', ARGV[6], 'applied_at', ARGV[7], 'offset', ARGV[3])
return 'applied'
