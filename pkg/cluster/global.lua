-- Draws units of the global limit for one gateway, which uses them within ttl of drawing or never.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] -- µs

local each, burst = tonumber(ARGV[1]) / 1000, tonumber(ARGV[2]) -- µs a unit, units
local want, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])          -- units, µs
local debt = tonumber(ARGV[5])                                  -- units that were used without asking
local unused, drawn = tonumber(ARGV[6]), tonumber(ARGV[7])      -- units, and of which draw at the earliest

-- As in count.lua, another layout needs another name of the key.
local LAYOUT, SIZE = '<ddddddd', 56
local IDLE = 120000        -- ms that the bucket is kept longer than it matters
local LONGEST = 2764800000 -- ms, 32 days

-- The bucket, in time: owed is how long until it is full again, counted at the rate that was asked
-- with last. Units may be used ttl later than they were drawn, and are as if they came back so much
-- later: owed is at least ttl before they are added. Draws have numbers, which are never used again:
-- each is the time (µs), or more. last is that of the last one; and of those after ebb, spare is the
-- least that owed was above ttl, less what was given back since.
local PLENTY = 2 ^ 62
local owed, last, ebb, spare = 0, now, now, PLENTY
local stored = redis.call('GET', KEYS[1])
if stored and #stored == SIZE then
  local at, before, most
  at, owed, before, most, last, ebb, spare = struct.unpack(LAYOUT, stored)
  owed = math.max(0, owed - math.max(0, now - at)) -- when the clock goes back it goes on from there
  if before == each and most == burst then
    -- What was not used is as if it had never been drawn, unless owed would have been below a ttl
    -- since, and raised.
    if drawn >= ebb and drawn <= last then
      local back = math.min(unused * each, spare)
      owed, spare = math.max(0, owed - back), spare - back
    end
  else
    ebb, spare = last + 1, PLENTY
  end
  if before ~= each then
    -- As limit.Bucket does: bursts that come back in the same time owe for the same time. To a
    -- slower rate of a longer time more is owed, and back from there as much less.
    local fast, slow, slowest = before, each, burst
    if each < before then
      fast, slow, slowest = each, before, most
    end
    local short = fast * math.max(burst, most)
    local long = math.max(slow * slowest, short)
    owed = owed * (slow == each and long / short or short / long)
  end
end

if debt > 0 then
  owed = owed + debt * each
end

-- A billionth of a unit is nothing that the clock can tell, and rounding must not take a unit away.
local rest = math.max(0, math.floor(burst - owed / each + 1e-9))
local n = math.min(want, rest, math.max(1, math.floor(rest / 4)))
if n > 0 then
  last = math.max(last + 1, now)
  spare = math.min(spare, owed - ttl)
  if spare < burst * each / 4 then -- too little to be of use: from here on it is counted anew
    ebb, spare = last, PLENTY
  end
  owed = math.max(owed, ttl) + n * each
end

local life = math.min(math.ceil(owed / 1000), LONGEST) + IDLE
redis.call('SET', KEYS[1], struct.pack(LAYOUT, now, owed, each, burst, last, ebb, spare), 'PX', string.format('%.0f', life))

local function micros(t)
  return math.min(math.max(math.ceil(t), 0), 2 ^ 51)
end
return {last, n, math.min(rest - n, 2 ^ 51), micros(owed + each - burst * each), micros(owed)}
