-- Puts documents back that the store has lost, or has in an earlier revision.
-- KEYS: the documents (hash), their log (stream), the epoch
-- ARGV: our epoch; "begin" a store that was emptied, "put", or "end" what was begun;
--       then an id, its document, an id, ...
-- Answers {"epoch", the store's} or {"done", how many documents it lacked}; to "begin"
-- {"done", 1 for the first who does}.
local epoch = redis.call('GET', KEYS[3]) or ''
local restoring = ARGV[1] .. ':restoring'
local put = 0
if epoch == '' and ARGV[2] == 'begin' then
  epoch = restoring
  redis.call('SET', KEYS[3], epoch)
  put = 1
end
if epoch ~= ARGV[1] and epoch ~= restoring then return {'epoch', epoch} end
local time = redis.call('TIME')
local last = position(KEYS[2])
for i = 3, #ARGV, 2 do
  local before = revision(redis.call('HGET', KEYS[1], ARGV[i]) or '')
  if tonumber(before) < tonumber(revision(ARGV[i + 1])) then
    local now = math.max(last + 1, time[1] * 1000000 + time[2])
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    record(KEYS[2], string.format('%.0f', now), last, ARGV[i], ARGV[i + 1])
    last = now
    put = put + 1
  end
end
if ARGV[2] == 'end' and epoch == restoring then redis.call('SET', KEYS[3], ARGV[1]) end
return {'done', tostring(put)}
