"""What a board does on Redis: one script for each transition, so that each is atomic.

All keys of a board begin with ``mirai:{NAME}:``, and the braces keep them on one node of a cluster:

    xs, ys, meta      hashes: task -> its bytes, and what is known of it (see ``META``)
    in:STATE          sorted sets: the tasks in a state, by the number of their push
    queue, queue:W    sorted sets: those that are queued, for all and for worker W; by priority,
                      and those of equal priority by name, which begins with the number of the push
    bell, bell:W      lists: an element wakes one of those who wait for a task, or worker W; who is
                      woken looks, and wakes the next if there is more.  A ring is no task: if who
                      has heard it dies, nothing is lost, since others look again by themselves
    ended             sorted set: the tasks that have ended, by the clock, in µs, or one more than
                      the last: a server that comes back with less than it had gives no number
                      again that somebody has read up to; ``base``: the last number before a reset
    workers, hands    hash: worker -> what is known of it; list: workers as they came
    heard, asked      sorted set: the running workers, by when they were heard of last; set: those
                      that are to leave
    server            hash: the server that has the board -> since when that is known
    held:W, popped    set: what a worker is running; hash: worker -> its last call of pop
    log, objects      list; hash
    changes, seq      numbers; the first begins at the clock, so that a board that was forgotten is
                      not taken for itself
    news              channel: something has changed

Where the client cannot know whether a call has arrived, it says ``again``: then what was done
already is not refused, and is answered like the first time.
"""

from __future__ import annotations

from typing import Final

LOGGED: Final = 10_000
"""How many lines are kept."""

_PRELUDE = """
local p = KEYS[1]
local call = redis.call
local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local clock = string.format('%.0f', now * 1e6)

local STATE, CONDITION, WORKER, PRIORITY, TRIES, PUSHED, STARTED, ENDED, SEQ = 1,2,3,4,5,6,7,8,9

local WORDS = {
  terminated = 'its worker has left', killed = 'its worker was killed', lost = 'its worker was lost'
}

local function meta(key)
  local raw = call('HGET', p..'meta', key)
  return raw and cmsgpack.unpack(raw)
end

local function move(key, m, state)
  if m[STATE] ~= '' then call('ZREM', p..'in:'..m[STATE], key) end
  m[STATE] = state
  call('ZADD', p..'in:'..state, m[SEQ], key)
  call('HSET', p..'meta', key, cmsgpack.pack(m))
end

local function changed()
  if call('INCR', p..'changes') < 1e12 then call('SET', p..'changes', clock) end
  call('PUBLISH', p..'news', '')
end

local function ring(bell)
  if call('LLEN', bell) == 0 then call('RPUSH', bell, 1) end
end

local function member(key, m)
  return string.format('%016.0f', m[SEQ])..key
end

local function enqueue(key, m)
  local whose = ''
  if m[WORKER] ~= '' then whose = ':'..m[WORKER] end
  move(key, m, 'queued')
  call('ZADD', p..'queue'..whose, 0 - m[PRIORITY], member(key, m))
  ring(p..'bell'..whose)
end

local function runs(worker)
  return call('ZSCORE', p..'heard', worker)
end

local function goes_on(worker)
  return runs(worker) and call('SISMEMBER', p..'asked', worker) == 0
end

-- Return for how long this server has been known to have the board; it has it from now on if it was
-- another, or the same before a restart.
local function serves()
  local id = string.match(call('INFO', 'server'), 'run_id:(%x+)') or ''
  local since = call('HGET', p..'server', id)
  if since then return now - tonumber(since) end
  call('DEL', p..'server')
  call('HSET', p..'server', id, now)
  return 0
end

local function last_end()
  local last = call('ZRANGE', p..'ended', -1, -1, 'WITHSCORES')[2]
  return tonumber(last or call('GET', p..'base') or '0')
end

local function finish(key, m, state, ys, condition)
  m[CONDITION] = condition
  m[ENDED] = now
  call('HSET', p..'ys', key, ys)
  if m[STATE] == 'running' then call('SREM', p..'held:'..m[WORKER], key) end
  move(key, m, state)
  call('ZADD', p..'ended', string.format('%.0f', math.max(last_end() + 1, tonumber(clock))), key)
end

local function dismiss(worker, state, reason, most)
  local held = {}
  for _, key in ipairs(call('SMEMBERS', p..'held:'..worker)) do
    table.insert(held, {key, meta(key)})
  end
  table.sort(held, function(a, b)  -- as they were taken
    if a[2][STARTED] ~= b[2][STARTED] then return a[2][STARTED] < b[2][STARTED] end
    return a[2][SEQ] < b[2][SEQ]
  end)
  local condition = WORDS[state]
  if reason ~= '' then condition = condition..': '..reason end
  for _, each in ipairs(held) do
    local key, m = each[1], each[2]
    if m[TRIES] < most then
      m[WORKER] = ''
      m[STARTED] = 0
      enqueue(key, m)
    else
      finish(key, m, 'lost', '', condition)
    end
  end
  for _, pinned in ipairs(call('ZRANGE', p..'queue:'..worker, 0, -1)) do
    local key = string.sub(pinned, 17)
    local m = meta(key)
    m[WORKER] = ''
    enqueue(key, m)
  end
  call('DEL', p..'held:'..worker, p..'queue:'..worker, p..'bell:'..worker)
  local w = cmsgpack.unpack(call('HGET', p..'workers', worker))
  w[4], w[6], w[8], w[9] = state, tonumber(runs(worker)), now, reason
  call('HSET', p..'workers', worker, cmsgpack.pack(w))
  call('ZREM', p..'heard', worker)
  call('SREM', p..'asked', worker)
  call('HDEL', p..'popped', worker)
end

-- Return the first of these keys that is taken; with again, those do not count that are ours.
local function taken(first, step, again, ours)
  local seen = {}
  for i = first, #ARGV, step do
      local key = ARGV[i]
    if seen[key] then return key end
    seen[key] = true
    local m = meta(key)
    if m and not (again and ours(i, m)) then return key end
  end
end
"""

# What is kept of a task besides what it holds:
# [state, condition, worker, priority, tries, pushed, started, ended, number of its push]

PUSH: Final = """
local again = ARGV[1] == '1'
local key = taken(2, 4, again, function(i) return call('HGET', p..'xs', ARGV[i]) == ARGV[i + 1] end)
if key then return {0, key} end
for i = 2, #ARGV, 4 do
  local key, xs, worker, priority = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  if call('HSETNX', p..'xs', key, xs) == 1 then
    if worker ~= '' and not runs(worker) then worker = '' end
    enqueue(key, {'', '', worker, priority, 0, now, 0, 0, call('INCR', p..'seq')})
  end
end
changed()
return {1}
"""

CREATE: Final = """
local again, worker = ARGV[1] == '1', ARGV[2]
if not runs(worker) then return {-1} end
local key = taken(3, 3, again, function(i, m) return m[WORKER] == worker end)
if key then return {0, key} end
for i = 3, #ARGV, 3 do
  local key, priority = ARGV[i], tonumber(ARGV[i + 2])
  if call('HSETNX', p..'xs', key, ARGV[i + 1]) == 1 then
    call('SADD', p..'held:'..worker, key)
    move(key, {'', '', worker, priority, 1, now, now, 0, call('INCR', p..'seq')}, 'running')
  end
end
changed()
return {1}
"""

POP: Final = """
local again, worker, asking = ARGV[1] == '1', ARGV[2], ARGV[3]
if again then
  local last = call('HGET', p..'popped', worker)
  if last and string.sub(last, 1, #asking) == asking then
    local key = string.sub(last, #asking + 1)
    return {1, key, call('HGET', p..'xs', key), call('HGET', p..'meta', key)}
  end
end
if not goes_on(worker) then return {-1} end
local found = call('ZPOPMIN', p..'queue:'..worker)
if #found == 0 then found = call('ZPOPMIN', p..'queue') end
if #found == 0 then return {0} end
if call('EXISTS', p..'queue') == 1 then ring(p..'bell') end
local key = string.sub(found[1], 17)
local m = meta(key)
m[WORKER] = worker
m[TRIES] = m[TRIES] + 1
m[STARTED] = now
move(key, m, 'running')
call('SADD', p..'held:'..worker, key)
call('HSET', p..'popped', worker, asking..key)
changed()
return {1, key, call('HGET', p..'xs', key), cmsgpack.pack(m)}
"""

END: Final = """
local again, worker = ARGV[1] == '1', ARGV[2]
local answers, any = {}, false
for i = 3, #ARGV, 4 do
  local key, state, ys, condition = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local m = meta(key)
  local answer = 0
  if m and m[WORKER] == worker then
    if m[STATE] == 'running' then
      finish(key, m, state, ys, condition)
      answer, any = 1, true
    elseif again and m[STATE] == state and m[CONDITION] == condition then
      answer = 1
    end
  end
  table.insert(answers, answer)
end
if any then changed() end
return answers
"""

_WITHDRAWAL: Final = """
local function withdraw(keys, condition)
  local count = 0
  for _, key in ipairs(keys) do
    local m = meta(key)
    if m and m[STATE] == 'queued' then
      local queue = p..'queue'
      if m[WORKER] ~= '' then queue = queue..':'..m[WORKER] end
      call('ZREM', queue, member(key, m))
      finish(key, m, 'failed', '', condition)
      count = count + 1
    end
  end
  if count > 0 then changed() end
  return count
end
"""

WITHDRAW: Final = f"""{_WITHDRAWAL}
local keys = {{}}
for i = 3, #ARGV do table.insert(keys, ARGV[i]) end
return withdraw(keys, ARGV[2])
"""

# So many at most, of those up to the push of this number, at first the last: that is returned.
WITHDRAW_ALL: Final = f"""{_WITHDRAWAL}
local condition, last, most = ARGV[2], ARGV[3], ARGV[4]
if last == '' then last = call('GET', p..'seq') or '0' end
local keys = call('ZRANGEBYSCORE', p..'in:queued', '-inf', last, 'LIMIT', 0, most)
return {{withdraw(keys, condition), last}}
"""

ENDED: Final = """
local keys, position = {}, ARGV[2]
local found = call('ZRANGEBYSCORE', p..'ended', '('..position, '+inf', 'WITHSCORES',
                   'LIMIT', 0, ARGV[3])
for i = 1, #found, 2 do
  table.insert(keys, found[i])
  position = found[i + 1]
end
table.insert(keys, 1, position)
return keys
"""

TALLY: Final = """
local counts = {}
for _, state in ipairs({'queued', 'running', 'finished', 'failed', 'lost'}) do
  table.insert(counts, call('ZCARD', p..'in:'..state))
end
table.insert(counts, call('ZCARD', p..'heard'))
table.insert(counts, tonumber(call('GET', p..'changes') or '0'))
return counts
"""

ENTER: Final = """
local again, id, patience = ARGV[1] == '1', ARGV[2], tonumber(ARGV[5])
local known = call('HGET', p..'workers', id)
if known then
  local w = cmsgpack.unpack(known)
  return (again and w[2] == ARGV[3] and w[3] == tonumber(ARGV[4])) and 1 or 0
end
local w = {id, ARGV[3], tonumber(ARGV[4]), 'running', patience, now, now, 0, ''}
call('HSET', p..'workers', id, cmsgpack.pack(w))
call('RPUSH', p..'hands', id)
serves()
call('ZADD', p..'heard', now, id)
changed()
return 1
"""

BEAT: Final = """
if not runs(ARGV[2]) then return 0 end
call('ZADD', p..'heard', now, ARGV[2])
return goes_on(ARGV[2]) and 1 or 0
"""

LEAVE: Final = """
if not runs(ARGV[2]) then return 0 end
dismiss(ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]))
changed()
return 1
"""

ASK_TO_LEAVE: Final = """
local workers = {}
if ARGV[2] == 'all' then
  workers = call('ZRANGE', p..'heard', 0, -1)
else
  for i = 3, #ARGV do table.insert(workers, ARGV[i]) end
end
for _, worker in ipairs(workers) do
  if runs(worker) then
    call('SADD', p..'asked', worker)
    ring(p..'bell:'..worker)
  end
end
return 1
"""

FIND_LOST: Final = """
local most, lost = tonumber(ARGV[2]), {}
-- Where the server was away, or another was there in its place, nobody could be heard of.
local up = serves()
local known = call('ZRANGE', p..'heard', 0, -1, 'WITHSCORES')
for i = 1, #known, 2 do
  local worker, heard = known[i], tonumber(known[i + 1])
  local patience = cmsgpack.unpack(call('HGET', p..'workers', worker))[5]
  if patience > 0 and now - heard > patience and up > patience then
    local reason = string.format('not heard of for %.1f s', now - heard)
    dismiss(worker, 'lost', reason, most)
    table.insert(lost, worker)
  end
end
if #lost > 0 then changed() end
return lost
"""

WORKERS: Final = """
local found = {}
for _, id in ipairs(call('LRANGE', p..'hands', 0, -1)) do
  local w = cmsgpack.unpack(call('HGET', p..'workers', id))
  local heard = runs(id)
  if heard then w[6] = tonumber(heard) end
  table.insert(found, cmsgpack.pack(w))
end
return found
"""

LOG: Final = f"""
for i = 3, #ARGV do call('RPUSH', p..'log', cmsgpack.pack({{now, ARGV[2], ARGV[i]}})) end
call('LTRIM', p..'log', -{LOGGED}, -1)
return 1
"""

RESET: Final = """
call('SET', p..'base', string.format('%.0f', last_end()))
local changes = tonumber(call('GET', p..'changes') or '0') + 1
for _, id in ipairs(call('LRANGE', p..'hands', 0, -1)) do
  call('UNLINK', p..'held:'..id, p..'queue:'..id, p..'bell:'..id)
  call('RPUSH', p..'bell:'..id, 1)
  call('EXPIRE', p..'bell:'..id, 60)
end
for _, state in ipairs({'queued', 'running', 'finished', 'failed', 'lost'}) do
  call('UNLINK', p..'in:'..state)
end
call('UNLINK', p..'xs', p..'ys', p..'meta', p..'queue', p..'bell', p..'ended', p..'workers',
     p..'hands', p..'heard', p..'asked', p..'popped', p..'log', p..'objects', p..'seq',
     p..'server')
call('SET', p..'changes', string.format('%.0f', math.max(changes, tonumber(clock))))
call('PUBLISH', p..'news', '')
return 1
"""


def whole(script: str) -> str:
    """Return a script as it is sent."""
    return _PRELUDE + script
