-- Says where the store is: {its epoch, the position of its log, how many documents}.
-- KEYS: the documents (hash), their log (stream), the epoch
return {
  redis.call('GET', KEYS[3]) or '',
  string.format('%.0f', position(KEYS[2])),
  tostring(redis.call('HLEN', KEYS[1])),
}
