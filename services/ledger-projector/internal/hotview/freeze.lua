-- Takes the live generation of a partition from its owner, for a rebuild to catch up with it: nobody may claim it for ARGV[3] seconds. Steps of
-- the owner fail from here on. KEYS: live, meta. ARGV: prefix of meta, who freezes, seconds.
-- Answers 'frozen', the offset and what was emitted; 'moved' when another generation is live.
local live = redis.call('GET', KEYS[1])
if live ~= ARGV[1] and not (live == false and not string.find(ARGV[1], ':g%d+:$')) then return {'moved', live or ''} end
if redis.call('EXISTS', KEYS[2]) == 0 then return {'frozen', '-1'} end
redis.call('HSET', KEYS[2], 'owner', ARGV[2], 'frozen_until', tonumber(redis.call('TIME')[1]) + tonumber(ARGV[3]))
return {'frozen', redis.call('HGET', KEYS[2], 'offset')}
