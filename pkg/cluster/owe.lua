-- Counts what a gateway let in while it could not ask. count.lua stands before this.
local secondEach, ofSecond = tonumber(ARGV[7]), tonumber(ARGV[8])
local minuteEach, ofMinute = tonumber(ARGV[9]), tonumber(ARGV[10])
local charge = tonumber(ARGV[11])
begin(false)
local full = 0
if secondEach > 0 and ofSecond > 0 then
  second, secondAt, changed = sunk(second, secondAt, secondEach) + ofSecond, now, true
  full = back(second, secondEach)
end
if minuteEach > 0 and ofMinute > 0 then
  minute, minuteAt, changed = sunk(minute, minuteAt, minuteEach) + ofMinute, now, true
  full = math.max(full, back(minute, minuteEach))
end
if tokenEach > 0 and charge > 0 then
  tokens, tokensAt, changed = sunk(tokens, tokensAt, tokenEach) + charge, now, true
  full = math.max(full, back(tokens, tokenEach))
end
save(full)
return {now}
