-- revision is a document's, "0" when it has none that can be read.
local function revision(document)
  local digits = string.match(document, '^{"rev":([1-9]%d*),')
  if digits and tonumber(digits) <= 9007199254740991 then return digits end
  return '0'
end

-- position is that of the last change in the log, 0 when there is none.
local function position(log)
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return entry and tonumber(string.match(entry[1], '^%d+')) or 0
end

-- record tells those who follow the log of a change, and which one was before it.
local function record(log, at, last, id, document)
  redis.call('XADD', log, 'MAXLEN', '~', 100000, at .. '-0',
    'prev', string.format('%.0f', last), 'id', id, 'doc', document)
end
