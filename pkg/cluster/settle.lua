-- Counts what happens after a request was let in. count.lua stands before this.
local lease, keep, charge = ARGV[7], ARGV[8], tonumber(ARGV[9])
begin(false)
if lease ~= '' and lease ~= keep then
  drop(lease)
end
if keep ~= '' then
  put(keep)
end
local full = 0
if charge > 0 and tokenEach > 0 then
  tokens, tokensAt, changed = sunk(tokens, tokensAt, tokenEach) + charge, now, true
  full = back(tokens, tokenEach)
end
save(full)
return {now, start or '', used, own}
