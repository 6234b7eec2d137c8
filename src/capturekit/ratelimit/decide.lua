-- One decision: KEYS[1] is all that a caller spent, ARGV[1] the question; redis.py packs it.
-- Times are whole microseconds. The state of a key is one string (numbers big-endian):
--   head    version, last reading of the clock, sum of its steps back, number of windows
--   rows    per window: its length, what is used in it, number of entries
--   entries of each row, oldest first: time, cost
-- The answer is packed too: rule that speaks, used, wait, reset, reading of the clock.

local VERSION, HEAD, ROW, ENTRY, TIME = 76, '>BI7I7B', '>I7I7I2', '>I7I7', '>I7'
local ROW_BYTES, ENTRY_BYTES = 16, 14
local EXACT_UP_TO, SUB_BUCKETS = $EXACT_UP_TO, $SUB_BUCKETS

local key, question = KEYS[1], ARGV[1]
local unpack_, pack, sub = struct.unpack, struct.pack, string.sub
local max, ceil = math.max, math.ceil

-- Before the clock is read, so that a key that expires in between is empty, not forgotten.
local state = redis.pcall('GET', key)
if type(state) == 'table' then return state end
local server_time = redis.call('TIME')
local server_us = server_time[1] * 1000000 + server_time[2]

local spend, cost, told_us, rules, windows, at = unpack_('>BdddB', question)
local clock_us = told_us < 0 and server_us or told_us

-- A log is a view of the bytes first..last-1 of its text, and what this decision adds to it:
-- one entry as its tail, with the time `newest`. A tail is not yet judged by anybody.
local logs, must_write = {}, false
local read_us, stepped_back_us = clock_us, 0
if state then
  local version, known, row
  local size = #state
  if size >= ROW_BYTES then
    version, read_us, stepped_back_us, known, row = unpack_(HEAD, state)
  end
  local first = version == VERSION and row + known * ROW_BYTES or size + 2
  for index = 1, first <= size and known or 0 do
    local log = {text = state, first = first}
    log.window, log.used, log.last, row = unpack_(ROW, state, row)
    first = first + log.last * ENTRY_BYTES
    log.last = first
    logs[index] = log
  end
  if first ~= size + 1 then
    return redis.error_reply('WRONGTYPE a string that is no rate limit state')
  end
end
if clock_us < read_us then
  -- Time stands still for this reading, and goes on from there.
  stepped_back_us = stepped_back_us + read_us - clock_us
  must_write = true
end
local now = clock_us + stepped_back_us

local function find(window)
  local longest = {window = 0, used = 0, text = '', first = 1, last = 1}
  for _, log in ipairs(logs) do
    if log.window == window then return log end
    if log.window > longest.window then longest = log end
  end
  -- A window that is new to this key starts with what the longest one remembers.
  local log = {
    window = window, used = longest.used,
    text = longest.text, first = longest.first, last = longest.last,
  }
  logs[#logs + 1] = log
  must_write = must_write or log.used > 0
  return log
end

local function forget(log)
  local text, first, last = log.text, log.first, log.last
  local since = now - log.window
  while first < last do
    local moment, spent = unpack_(ENTRY, text, first)
    if moment > since then break end
    log.used = log.used - spent
    first = first + ENTRY_BYTES
    must_write = true
  end
  log.first = first
end

local function add(log, exact)
  local moment = now
  if not exact then
    local width = log.window / SUB_BUCKETS
    moment = max(now, ceil(ceil(now / width) * width))
  end
  local spent = cost
  log.used = log.used + cost
  if log.first < log.last then
    local newest, newest_cost = unpack_(ENTRY, log.text, log.last - ENTRY_BYTES)
    if moment <= newest then
      moment, spent, log.last = newest, spent + newest_cost, log.last - ENTRY_BYTES
    end
  end
  log.newest, log.tail = moment, pack(ENTRY, moment, spent)
end

local function reset_us(log)
  if log.newest then return log.newest + log.window - now end
  if log.first == log.last then return 0 end
  return unpack_(TIME, log.text, log.last - ENTRY_BYTES) + log.window - now
end

local function wait_us(log, limit)
  local missing, position = log.used + cost - limit, log.first
  if missing <= 0 then return 0 end
  if cost > limit then return max(log.window, reset_us(log)) end
  while true do
    local moment, spent = unpack_(ENTRY, log.text, position)
    missing, position = missing - spent, position + ENTRY_BYTES
    if missing <= 0 then return moment + log.window - now end
  end
end

-- Open all windows before any forgets: what is new copies what is there.
local asked, limits = {}, {}
for index = 1, windows do
  local window
  window, limits[index], at = unpack_('>dd', question, at)
  asked[index] = find(window)
end
local waits, allowed = {}, true
for index = 1, rules do
  forget(asked[index])
  waits[index] = wait_us(asked[index], limits[index])
  allowed = allowed and waits[index] == 0
end
if allowed and spend == 1 then
  must_write = true
  for index = 1, rules do
    asked[index].is_rule = true
    add(asked[index], limits[index] <= EXACT_UP_TO)
  end
  -- Windows of other rules under this name hear of it too.
  for _, log in ipairs(logs) do
    if not log.is_rule then
      forget(log)
      add(log, false)
    end
  end
end

if must_write then
  local lasts_us, size = 0, #logs
  local parts = {pack(HEAD, VERSION, clock_us, stepped_back_us, size)}
  for index, log in ipairs(logs) do
    local entries = (log.last - log.first) / ENTRY_BYTES + (log.tail and 1 or 0)
    parts[1 + index] = pack(ROW, log.window, log.used, entries)
    parts[size + 2 * index] = sub(log.text, log.first, log.last - 1)
    parts[size + 2 * index + 1] = log.tail or ''
    lasts_us = max(lasts_us, reset_us(log))
  end
  if lasts_us > 0 then
    -- The first millisecond that begins when nothing is held any more; never earlier.
    local gone_ms = ceil((server_us + lasts_us) / 1000)
    local failed = redis.pcall('SET', key, table.concat(parts), 'PXAT', gone_ms)
    if failed.err then return failed end
  elseif state then
    redis.call('DEL', key)
  end
elseif state and clock_us > read_us then
  -- The reading alone, behind the version: else time would go back to an older one when the clock
  -- steps back. A server that takes no writes still answers.
  redis.pcall('SETRANGE', key, 1, pack(TIME, clock_us))
end

local speaker = 1
for index = 2, rules do
  local one, other = asked[index], asked[speaker]
  local hopeless, other_hopeless = cost > limits[index], cost > limits[speaker]
  if hopeless ~= other_hopeless then
    if hopeless then speaker = index end
  elseif waits[index] ~= waits[speaker] then
    if waits[index] > waits[speaker] then speaker = index end
  elseif one.used - limits[index] > other.used - limits[speaker] then
    speaker = index
  end
end
local log, wait = asked[speaker], waits[speaker]
return pack('>Bdddd', speaker - 1, log.used, wait, max(wait, reset_us(log)), clock_us)
