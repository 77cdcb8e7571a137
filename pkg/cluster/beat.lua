-- Notes that a gateway is there, or that it has gone, and tells which are.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] -- µs

local GATEWAYS, node, beat, gone, self = KEYS[1], ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
local LIVE, KEPT = 5000, 3600000 -- ms
local ms = math.floor(now / 1000)

local function put(name, count, about)
  redis.call('HSET', GATEWAYS, name, string.format('%s %.0f %s', count, ms, about))
end

local info = redis.pcall('INFO', 'server') -- a user may be forbidden to ask
local answer = {now, type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '', '0'}

local function there(name, seen, about)
  answer[#answer + 1] = name
  answer[#answer + 1] = seen
  answer[#answer + 1] = about
end

local entries = redis.call('HGETALL', GATEWAYS)
for i = 1, #entries, 2 do
  local name = entries[i]
  local count, seen, about = string.match(entries[i + 1], '^(%d+) (%d+) (.*)$')
  seen = tonumber(seen)
  if name == node then
    answer[3] = count or '0'
  elseif not count or ms - seen > KEPT then
    redis.call('HDEL', GATEWAYS, name)
  elseif seen > ms then -- the clock went back: it is as if seen now, and gone in time unless it is there
    put(name, count, about)
    there(name, ms, about)
  elseif ms - seen <= LIVE then
    there(name, seen, about)
  end
end

if gone then
  redis.call('HDEL', GATEWAYS, node)
else
  put(node, beat, self)
  there(node, ms, self)
end
redis.call('PEXPIRE', GATEWAYS, KEPT)
return answer
