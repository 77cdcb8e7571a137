-- What admit.lua and settle.lua begin with. It reads what is known of one tag; begin brings that up
-- to date, and save writes what has changed. Until begin nothing is written.
--
-- Gateways of several versions use the same keys: who changes what stands in one gives it another name.
--
-- Numbers are doubles: whole ones are exact up to 2^53. Starts of terms are Unix nanoseconds, which
-- are more, so they are strings of 20 digits, and compared as such.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] -- µs

local LEVELS, LEASES, TERM = KEYS[1], KEYS[2], KEYS[3]
local ttl, tokenEach = tonumber(ARGV[1]), tonumber(ARGV[2]) -- ms, ns
local asked, askedEnd, node, published = ARGV[3], tonumber(ARGV[4]), 'n:' .. ARGV[5], tonumber(ARGV[6])

local IDLE = string.find(LEVELS, '{client', 1, true) and 1000 or 120000        -- ms that levels and leases are kept longer than they matter
local LONGEST = 2764800000 -- ms, 32 days: a longer debt is forgotten when nobody comes for so long
local LATE = 172800000     -- ms, 2 days that a term is kept for gateways whose clock is behind
local AHEAD = 60000000     -- µs that a term may begin later than this clock says
local PRUNED = 64          -- leases that one call drops

-- Of each rate a level, the units that were taken and have not come back, and when it was that (µs):
-- each its own, because who settles knows only one of the rates. The tokens that leases hold, how
-- many leases there are, and when all of it will be as good as new (µs).
local LAYOUT, SIZE = '<ddddddddd', 72
local second, secondAt, minute, minuteAt, tokens, tokensAt = 0, 0, 0, 0, 0, 0
local reserved, leases, idleAt = 0, 0, 0
local changed, listed = false, false -- any of these, and a lease

local levels = redis.call('GET', LEVELS)
local recount = not levels or #levels ~= SIZE
if not recount then
  second, secondAt, minute, minuteAt, tokens, tokensAt, reserved, leases, idleAt = struct.unpack(LAYOUT, levels)
  if math.max(secondAt, minuteAt, tokensAt) > now then -- the clock went back; it goes on from here
    secondAt, minuteAt, tokensAt = math.min(secondAt, now), math.min(minuteAt, now), math.min(tokensAt, now)
    changed = true
  end
end

-- A level as it is now, 0 of what is not limited. What has come back is rounded down to steps of 2^-20
-- units, sums of which are exact: no error ever adds up to a unit too many.
local function sunk(level, at, each)
  if each == 0 then
    return 0
  end
  return math.max(0, level - math.floor((now - at) * 1000 / each * 1048576) / 1048576)
end

-- How long n units take to come back, in µs, at most 71 years.
local function back(n, each)
  return math.min(math.ceil(n * each / 1000), 2 ^ 51)
end

-- The term of the quota, of which start is nil when there is none: what all have used in it, what
-- leases hold of it, and what this node has used in it.
local term = redis.call('HMGET', TERM, 'start', 'end', 'used', 'held', node)
local start, ends = term[1], tonumber(term[2] or 0)
local used, held, own = tonumber(term[3] or 0), tonumber(term[4] or 0), tonumber(term[5] or 0)
local heldBefore = held

-- Makes the term that was asked for the one that counts, unless it is over, and counts in it what
-- this node has used. One that begins too far ahead is of a clock that is wrong: what there is goes
-- on, and where there is nothing a term begins now, if that is wanted.
local function follow(wanted)
  local begun = asked
  if tonumber(asked) > (now + AHEAD) * 1000 then
    if start or not wanted then
      return
    end
    begun = string.format('%017d000', now)
  end
  if start and (begun < start or begun == start and published <= own and askedEnd == ends) then
    return
  end
  if begun == start then
    used, own = used + math.max(published - own, 0), math.max(published, own)
  else
    redis.call('DEL', TERM)
    used, own, held, heldBefore, recount = published, published, 0, 0, true
  end
  if begun ~= start or askedEnd ~= ends then
    start, ends = begun, askedEnd
    redis.call('HSET', TERM, 'start', start, 'end', ends, 'used', used, 'held', held, node, own)
    if ends > 0 then
      redis.call('PEXPIREAT', TERM, math.ceil(math.max(ends, now) / 1000) + LATE)
    else
      redis.call('PERSIST', TERM)
    end
  else
    redis.call('HSET', TERM, 'used', used, node, own)
  end
end

-- Counts what a lease holds, or with a sign of -1 that it holds it no longer.
local function count(member, sign)
  local ofMinute, ofTerm, begun = string.match(member, ':(%d+):(%d+):(%d+)$')
  if begun then
    reserved = math.max(0, reserved + sign * ofMinute)
    if begun == start then
      held = math.max(0, held + sign * ofTerm)
    end
  end
  changed = true
end

local function put(member)
  if redis.call('ZADD', LEASES, math.floor(now / 1000) + ttl, member) == 1 then
    leases = leases + 1
    count(member, 1)
  end
  changed, listed = true, true -- if only in how long it is kept
end

-- A gateway that did not get its answer names the term that it asked for, which may not be the one
-- that its lease counts in.
local function drop(member)
  local there = redis.call('ZREM', LEASES, member)
  if there == 0 and start then
    member = string.sub(member, 1, -#start - 1) .. start
    there = redis.call('ZREM', LEASES, member)
  end
  if there == 1 then
    leases = leases - 1
    count(member, -1)
  end
end

-- Returns how many leases run. The sums are made anew when they cannot be right: one of the keys was
-- lost, or is of another time than the others.
local function begin(wanted)
  if asked ~= '' then
    follow(wanted)
  end
  if leases == 0 and not recount then
    reserved, held = 0, 0
    return 0
  end
  local ms = math.floor(now / 1000)
  local ended = redis.call('ZRANGEBYSCORE', LEASES, '-inf', ms, 'LIMIT', 0, PRUNED)
  if #ended > 0 then
    redis.call('ZREM', LEASES, unpack(ended))
    leases = leases - #ended
    for _, member in ipairs(ended) do
      count(member, -1)
    end
  end
  local there = redis.call('ZCARD', LEASES)
  if recount or leases ~= there then
    changed = changed or leases ~= there
    leases, reserved, held = there, 0, 0
    for _, member in ipairs(there > 0 and redis.call('ZRANGE', LEASES, 0, -1) or {}) do
      count(member, 1)
    end
  end
  if #ended < PRUNED then
    return leases
  end
  return redis.call('ZCOUNT', LEASES, ms + 1, '+inf')
end

-- Writes what has changed, to be kept for another ahead (µs) at least.
local function save(ahead)
  if start and held ~= heldBefore then
    redis.call('HSET', TERM, 'held', held)
  end
  if not changed then
    return
  end
  idleAt = math.max(idleAt, now + ahead, now + ttl * 1000)
  local life = math.min(math.ceil((idleAt - now) / 1000), LONGEST) + IDLE
  redis.call('SET', LEVELS, struct.pack(LAYOUT, second, secondAt, minute, minuteAt, tokens, tokensAt,
    reserved, leases, idleAt), 'PX', life)
  if listed then
    redis.call('PEXPIRE', LEASES, life)
  end
end

