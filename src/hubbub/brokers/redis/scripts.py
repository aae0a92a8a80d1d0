"""The steps that Redis carries out, each as a whole: in Lua.

A room has four keys, all with its hash tag: its head, a string; its log, a stream; a key for each
deduplication key; and who is in it, a hash. The head is

    epoch offset lineage age due base before

`lineage` is that of the server that wrote it (see lineage.py): if another one finds it, messages may have
been lost, and the room begins a new epoch. Whoever does not know yet that the server has another lineage
is told so (``STALE``), and changes nothing. Its log and its count go on; `base` is where, and `before` is the
epoch that ended there. `age` is the retention's, and the oldest message in the log is too old at `due`, both
in milliseconds. An entry of the log has the id ``offset-milliseconds``.
"""

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Script:
    """A step and the name by which Redis knows it."""

    source: bytes
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest.encode())


_COMMON = b"""
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_known(lineage)
  local told = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
  if lineage == 'disk' then
    return string.find(told, '%cconnected_slaves:0%c')
      and not string.find(told, '%cmaster_replid2:0*[1-9a-f]')
  end
  local run, id = string.match(told, '%crun_id:(%w+)'), string.match(told, '%cmaster_replid:(%w+)')
  return not run or not id or lineage == run .. ':' .. id
end

local function load(key, log, lineage, fresh)
  local value = redis.pcall('GET', key)
  local epoch, offset, was, age, due, base, before
  if type(value) == 'string' then
    epoch, offset, was, age, due, base, before =
      string.match(value, '^(%w+) (%d+) (%S+) (%d+) (%d+) (%d+) (%S+)$')
  end
  if not epoch then
    redis.call('DEL', key, log)
    return {fresh, 0, lineage, 0, 0, 0, '-'}, true
  end
  if was ~= lineage then
    if not is_known(lineage) then error({err = 'STALE The server has another lineage by now.'}) end
    return {fresh, tonumber(offset), lineage, tonumber(age), tonumber(due), tonumber(offset), epoch}, true
  end
  return {epoch, tonumber(offset), was, tonumber(age), tonumber(due), tonumber(base), before}, false
end

local function save(key, head, window)
  redis.call('SET', key, string.format('%s %d %s %d %d %d %s', unpack(head)),
    'PX', string.format('%d', math.max(head[4], window) + 3600000))
end

local function trim(log, now, age)
  local count = 2
  for _ = 1, 1000 do
    local entries = redis.call('XRANGE', log, '-', '+', 'COUNT', count)
    if #entries == 0 then return 0 end
    local offset, at
    for number, entry in ipairs(entries) do
      offset, at = string.match(entry[1], '^(%d+)-(%d+)$')
      if at + age >= now then
        if number > 1 then redis.call('XTRIM', log, 'MINID', entry[1]) end
        return at + age
      end
    end
    redis.call('XTRIM', log, 'MINID', string.format('%d', offset + 1))
    count = math.min(count * 2, 64)
  end
  return now
end
"""

PUBLISH = Script(
    _COMMON
    + b"""
local lineage, fresh, window = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = clock()
local answers, channels, spread = {}, {}, {}

local function publish(number, key, log, seen, body, count, age)
  if seen ~= key then
    local first = redis.call('GET', seen)
    if first then return first end
  end
  local head, changed = load(key, log, lineage, fresh .. string.format('%04x', number))
  local offset = '-'
  if count ~= '' then
    age = tonumber(age)
    head[2] = head[2] + 1
    offset = string.format('%d', head[2])
    if count == '0' then
      redis.call('DEL', log)
      head[5] = 0
    else
      redis.call('XADD', log, 'MAXLEN', count, offset .. '-' .. string.format('%d', now), 'd', body)
      redis.call('PEXPIRE', log, string.format('%d', age + 1))
      if head[5] == 0 then
        head[5] = now + age
      elseif age ~= head[4] or now > head[5] then
        head[5] = trim(log, now, age)
      end
    end
    head[4] = age
    changed = true
  end
  if changed then save(key, head, window) end
  local position = head[1] .. ' ' .. string.format('%d', head[2])
  if seen ~= key then redis.call('SET', seen, position, 'PX', ARGV[3]) end
  local text = head[1] .. ' ' .. offset .. ' ' .. body
  local parts = spread[key]
  if not parts then
    parts = {}
    spread[key] = parts
    channels[#channels + 1] = key
  end
  parts[#parts + 1] = struct.pack('>I4', #text) .. text
  return position
end

for number = 1, #KEYS / 3 do
  local at = number * 3
  local done, answer = pcall(publish, number, KEYS[at - 2], KEYS[at - 1], KEYS[at],
    ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  if not done then answer = {err = type(answer) == 'table' and answer.err or tostring(answer)} end
  answers[number] = answer
end
for _, channel in ipairs(channels) do
  redis.call('SPUBLISH', channel, table.concat(spread[channel]))
end
return answers
"""
)
"""Keys: of each message its room's head and log, and its deduplication key or the head again.

Arguments: lineage, a new epoch for each room that needs one, the deduplication window; of each message the
body, and count and age of its room's retention, or nothing if it is not kept. Returns the positions.
"""

HEADS = Script(
    _COMMON
    + b"""
local lineage, fresh, window = ARGV[1], ARGV[2], tonumber(ARGV[3])
local answers = {}
for number = 1, #KEYS / 3 do
  local key, log, who = KEYS[number * 3 - 2], KEYS[number * 3 - 1], KEYS[number * 3]
  local head, changed = load(key, log, lineage, fresh .. string.format('%04x', number))
  if changed then
    save(key, head, window)
  else
    redis.call('PEXPIRE', key, string.format('%d', math.max(head[4], window) + 3600000))
  end
  redis.call('PEXPIRE', who, 3600000)
  answers[number] = head[1] .. ' ' .. string.format('%d', head[2])
end
return answers
"""
)
"""Keys: of each room its head, its log and its members. Returns the newest positions, and keeps the rooms."""

HISTORY = Script(
    _COMMON
    + b"""
local key, log = KEYS[1], KEYS[2]
local lineage, fresh, window = ARGV[1], ARGV[2], tonumber(ARGV[3])
local epoch, since, limit, bytes = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local head, changed = load(key, log, lineage, fresh)
local now = clock()
if head[5] ~= 0 and now > head[5] then
  head[5] = trim(log, now, head[4])
  changed = true
end
if changed then save(key, head, window) end
local newest = head[2]
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local oldest = newest
if first then oldest = tonumber(string.match(first[1], '^(%d+)')) - 1 end
local answer = {}
local complete, entries, start = 1, {}, newest
if epoch == '' then
  if limit > 0 then entries = redis.call('XREVRANGE', log, '+', '-', 'COUNT', limit) end
  local size = 0
  local kept = {}
  for _, entry in ipairs(entries) do
    size = size + #entry[2][2]
    if size > bytes and #kept > 0 then break end
    kept[#kept + 1] = entry
  end
  entries = {}
  for number = #kept, 1, -1 do entries[#entries + 1] = kept[number] end
else
  if epoch == head[1] and since <= newest then
    if since < oldest then complete = 0 end
    start = math.max(since, oldest)
  else
    complete = 0
    start = oldest
    if ARGV[8] == '1' then
      if epoch == head[1] then
        head = {fresh, newest, lineage, head[4], head[5], newest, '-'}
        save(key, head, window)
      elseif epoch == head[7] then
        head[6] = math.min(since, head[6])
      end
      start = math.max(oldest, head[6])
    end
  end
  if limit > 0 then
    entries = redis.call('XRANGE', log, string.format('%d', start + 1), '+', 'COUNT', limit)
  end
  local size = 0
  for number, entry in ipairs(entries) do
    size = size + #entry[2][2]
    if size > bytes and number > 1 then
      for later = #entries, number, -1 do entries[later] = nil end
      break
    end
  end
end
answer[1] = string.format('%s %d %d %d', head[1], newest, start, complete)
for _, entry in ipairs(entries) do
  answer[#answer + 1] = entry[1]
  answer[#answer + 1] = entry[2][2]
end
return answer
"""
)
"""Keys: a room's head and log.

Arguments: lineage, a new epoch, the window; the epoch and offset to go on after, or nothing and 0 for the
newest; messages and bytes at most; and 1 for who was delivered that position, and wants what was published
since rather than all there is. If such a one is ahead, the server has gone back, and the room begins a new
epoch. Returns ``epoch newest start complete``, and ids and bodies in turn.
"""

_MEMBERS = b"""
local function connections(value)
  local read, held = pcall(cmsgpack.unpack, value)
  if not read or type(held) ~= 'table' then return {} end
  for _, one in ipairs(held) do
    if type(one) ~= 'table' or #one ~= 3 then return {} end
  end
  return held
end
"""

ENTER = Script(
    _MEMBERS
    + b"""
local member, connection, owner, details = unpack(ARGV)
local value = redis.pcall('HGET', KEYS[1], member)
if type(value) == 'table' then redis.call('DEL', KEYS[1]) end
local held = type(value) == 'string' and connections(value) or {}
local found = false
for _, one in ipairs(held) do
  if one[1] == connection then
    one[2], one[3] = owner, details
    found = true
  end
end
if not found then held[#held + 1] = {connection, owner, details} end
redis.call('HSET', KEYS[1], member, cmsgpack.pack(held))
redis.call('PEXPIRE', KEYS[1], 3600000)
return #held
"""
)
"""Key: a room's members. Returns on how many connections the member is."""

LEAVE = Script(
    _MEMBERS
    + b"""
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return 0 end
local held, left = connections(value), {}
for _, one in ipairs(held) do
  if one[1] ~= ARGV[2] then left[#left + 1] = one end
end
if #left == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return #held
end
if #left < #held then redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(left)) end
return 0
"""
)
"""Key: a room's members. Arguments: member and connection. Returns 1 if it was the member's last."""

REMOVE = Script(
    _MEMBERS
    + b"""
local all = redis.call('HGETALL', KEYS[1])
for number = 1, #all, 2 do
  local left, gone = {}, nil
  for _, one in ipairs(connections(all[number + 1])) do
    if one[2] == ARGV[1] then gone = gone or one else left[#left + 1] = one end
  end
  if #left == 0 then
    redis.call('HDEL', KEYS[1], all[number])
    if gone then redis.call('HSET', KEYS[2], all[number], gone[3]) end
  elseif gone then
    redis.call('HSET', KEYS[1], all[number], cmsgpack.pack(left))
  end
end
redis.call('PEXPIRE', KEYS[2], 3600000)
local departed = {}
local removed = redis.call('HGETALL', KEYS[2])
for number = 1, #removed, 2 do
  if redis.call('HEXISTS', KEYS[1], removed[number]) == 0 then
    departed[#departed + 1] = removed[number]
    departed[#departed + 1] = removed[number + 1]
  end
end
return departed
"""
)
"""Keys: a room's members, and those of an owner who is gone. Argument: the owner.

Returns members and details in turn, and the same once more if the answer was lost: until the second key is
deleted.
"""

MEMBERS = Script(
    _MEMBERS
    + b"""
local found = {}
local all = redis.call('HGETALL', KEYS[1])
for number = 1, #all, 2 do
  local first = connections(all[number + 1])[1]
  if first then
    found[#found + 1] = all[number]
    found[#found + 1] = first[3]
  end
end
return found
"""
)
"""Key: a room's members. Returns members and details in turn."""

NOTE = Script(
    b"""
if redis.call('SISMEMBER', KEYS[1], '') == 0 then return 0 end
redis.call('SADD', KEYS[1], unpack(ARGV))
return 1
"""
)
"""Key: an owner's rooms. Arguments: rooms to note. Returns 0 if the owner was taken for gone."""

RENEW = Script(
    b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = tonumber(ARGV[2])
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known and ARGV[3] ~= 'new' then return {0} end
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
local answer = {1}
if ARGV[3] ~= 'usual' then return answer end
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 16)) do
  redis.call('ZREM', KEYS[1], owner)
  redis.call('ZADD', KEYS[2], now, owner)
end
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 16)) do
  redis.call('ZADD', KEYS[2], now + lease, owner)
  answer[#answer + 1] = owner
end
return answer
"""
)
"""Keys: leases, and who is gone. Arguments: the owner, its lease, and ``new``, ``usual`` or ``patient``.

Returns 0 if it was taken for gone; else 1, and with ``usual`` the owners whose members this one has to
remove: nobody else is told of them for the length of a lease.
"""

ALL = (PUBLISH, HEADS, HISTORY, ENTER, LEAVE, REMOVE, MEMBERS, NOTE, RENEW)
