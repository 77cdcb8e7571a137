-- Takes all that a request is limited by, or nothing. count.lua stands before this.
local notAfter = tonumber(ARGV[7]) -- µs
if notAfter > 0 and now > notAfter then
  return {now}
end
local secondEach, secondBurst = tonumber(ARGV[8]), tonumber(ARGV[9])
local minuteEach, minuteBurst = tonumber(ARGV[10]), tonumber(ARGV[11])
local tokenBurst, wanted = tonumber(ARGV[12]), tonumber(ARGV[13])
local concurrent, requests, lease = tonumber(ARGV[14]), tonumber(ARGV[15]), ARGV[16]
local limit, hold, tooMuch = tonumber(ARGV[17]), tonumber(ARGV[18]), ARGV[19] == '1'

local running = begin(true)
local secondNow = sunk(second, secondAt, secondEach)
local minuteNow = sunk(minute, minuteAt, minuteEach)
local tokensNow = sunk(tokens, tokensAt, tokenEach)

-- The limit that holds the request longest, by its number in pkg/admit; of two, the first.
local by, wait, exhausted = 0, 0, 0
local function refuse(which, time)
  if by == 0 or time > wait then
    by, wait = which, time
  end
end

local function try(which, over, each)
  if each > 0 and over > 0 then
    refuse(which, back(over, each))
  end
end

-- Nobody knows when a request ends, which others wait for: a second is a guess.
local GUESS = 1000000

if requests > 0 then
  if concurrent > 0 and running >= concurrent then
    refuse(1, GUESS)
  end
  if wanted > 0 then
    try(2, tokensNow + reserved + wanted - tokenBurst, tokenEach)
  end
  if tooMuch or hold > 0 and limit > 0 and used + hold > limit then
    exhausted = 1
    refuse(3, ends > 0 and math.max(ends - now, GUESS) or 2 ^ 51)
  elseif hold > 0 and limit > 0 and used + held + hold > limit then
    refuse(3, GUESS)
  end
  try(4, secondNow + requests - secondBurst, secondEach)
  try(5, minuteNow + requests - minuteBurst, minuteEach)
  if by ~= 3 then
    exhausted = 0
  end
  if by == 0 then
    if secondEach > 0 then
      secondNow = secondNow + requests
      second, secondAt, changed = secondNow, now, true
    end
    if minuteEach > 0 then
      minuteNow = minuteNow + requests
      minute, minuteAt, changed = minuteNow, now, true
    end
    if lease ~= '' then
      put(lease .. ':' .. ARGV[13] .. ':' .. ARGV[18] .. ':' .. (start or '00000000000000000000'))
      running = running + 1
    end
  end
end

local untilSecond, untilMinute, untilTokens = back(secondNow, secondEach), back(minuteNow, minuteEach), back(tokensNow, tokenEach)
save(math.max(untilSecond, untilMinute, untilTokens))
return {now, by, wait, exhausted, untilSecond, untilMinute, untilTokens, reserved, running, start or '', used, held, own}
