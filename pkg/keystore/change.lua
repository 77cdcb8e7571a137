-- Changes one document unless somebody else has since it was read.
-- KEYS: the documents (hash), their log (stream), the epoch
-- ARGV: our epoch; the id; the revision that was read, or "" to read; the document
--       without its revision; the revision that whoever asks knows
-- Answers {"epoch", the store's}; {"document", its revision, its text} when that is
-- not the revision that was read, "none" in the place of "document" when there is
-- none; or {"done", the new revision}.
local epoch = redis.call('GET', KEYS[3]) or ''
if epoch ~= ARGV[1] then return {'epoch', epoch} end
local document = redis.call('HGET', KEYS[1], ARGV[2])
local before = revision(document or '')
if before ~= ARGV[3] then return {document and 'document' or 'none', before, document or ''} end
-- Never before what there is: a clock may go back, above all that of another server
-- after a failover.
local time = redis.call('TIME')
local last = position(KEYS[2])
local now = string.format('%.0f', math.max(last + 1, before + 1, ARGV[5] + 1, time[1] * 1000000 + time[2]))
document = '{"rev":' .. now .. ARGV[4]
redis.call('HSET', KEYS[1], ARGV[2], document)
record(KEYS[2], now, last, ARGV[2], document)
return {'done', now}
