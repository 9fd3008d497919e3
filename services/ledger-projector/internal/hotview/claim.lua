-- Makes ARGV[1] the owner of the partition, and returns all that meta holds, after 'claimed'. A partition that Redis does not know begins at offset -1.
-- KEYS: live, meta. ARGV: owner, layout, dataset, topic id, fold, prefix of meta, and whether its generation is the live one (1) or is being rebuilt (0).
-- Answers 'moved' with the live prefix when the generation is not what the caller takes it for, and 'frozen' while a rebuild takes the partition over.
local live = redis.call('GET', KEYS[1])
if ARGV[7] == '1' then
  if live == false then
    if KEYS[2] ~= ARGV[6] .. 'meta' or string.find(ARGV[6], ':g%d+:$') then return {'moved', ''} end
    redis.call('SET', KEYS[1], ARGV[6])
  elseif live ~= ARGV[6] then
    return {'moved', live}
  end
  local frozen = redis.call('HGET', KEYS[2], 'frozen_until')
  if frozen then
    if tonumber(frozen) > tonumber(redis.call('TIME')[1]) then return {'frozen'} end
    redis.call('HDEL', KEYS[2], 'frozen_until')
  end
elseif live == ARGV[6] then
  return {'moved', live}
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HSET', KEYS[2], 'layout', ARGV[2], 'dataset', ARGV[3], 'topic_id', ARGV[4], 'fold', ARGV[5],
    'offset', -1, 'clock', 0, 'emitted', -1, 'oversold', 0, 'applied_at', 0)
end
redis.call('HSET', KEYS[2], 'owner', ARGV[1])
local out = redis.call('HGETALL', KEYS[2])
table.insert(out, 1, 'claimed')
return out
