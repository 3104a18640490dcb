-- Gives one process its part of limits that several share, as of now, and remembers it. One call is one step: Redis runs no
-- other meanwhile.
--
-- KEYS[1]  hash: a field per process, { ends, held, wanted } as JSON; held and wanted by the name of what is limited; and when
--          it was begun
-- ARGV[1]  the process
-- ARGV[2]  milliseconds until its part is free again unless it calls before
-- ARGV[3]  milliseconds after which parts that cannot be divided go on to the next
-- ARGV[4]  milliseconds after which every process that lives has asked at least once
-- ARGV[5]  { name: { limit, used, wanted, equal, whole } } as JSON
-- returns  { name: part } as JSON
--
-- Parts are fair from the bottom up (max-min): who wants less than an equal part gets it, and what they leave is divided among
-- the others. Where all get what they want, the rest is divided equally, so that nobody has to ask before they begin. What one
-- process has is never another's before it said so or its time is over: the sum never exceeds the limit. When Redis has lost
-- its memory, nobody gets more than an equal part until all have been heard again.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local process, lease, turn = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local claims = cjson.decode(ARGV[5])

local others, begun = {}, nil
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do
  if stored[i] == 'begun' then
    begun = tonumber(stored[i + 1])
  elseif stored[i] ~= process then
    local read, other = pcall(cjson.decode, stored[i + 1])
    if read and type(other) == 'table' and other.ends > now then
      other.process = stored[i]
      others[#others + 1] = other
    else
      redis.call('HDEL', KEYS[1], stored[i])
    end
  end
end

if not begun then
  begun = now
  redis.call('HSET', KEYS[1], 'begun', begun)
end
local all_heard = now - begun >= tonumber(ARGV[4])

local function part_of(name, claim)
  local limit, taken = claim.limit, 0
  local wants = { { process = process, want = math.min(claim.wanted, limit) } }
  for _, other in ipairs(others) do
    taken = taken + (other.held[name] or 0)
    wants[#wants + 1] = { process = other.process, want = math.min(other.wanted[name] or 0, limit) }
  end
  table.sort(wants, function(a, b)
    if a.want ~= b.want then return a.want < b.want end
    return a.process < b.process
  end)

  -- The first so many want less than an equal part of what those before them leave.
  local left, content = limit, 0
  for i, one in ipairs(wants) do
    if one.want >= left / (#wants - i + 1) then break end
    left, content = left - one.want, i
  end
  -- Who divides what is left, each beyond its base: all of them if all are content, else the others.
  local base, first = 0, content + 1
  if content == #wants then base, first = claim.wanted, 1 end
  local sharers = {}
  for i = first, #wants do sharers[#sharers + 1] = wants[i].process end
  table.sort(sharers)
  local target = math.min(claim.wanted, limit)
  for rank, sharer in ipairs(sharers) do
    if sharer == process then
      local share = left / #sharers
      if claim.whole then
        -- What is over goes round, so that nobody is without for ever.
        local over = left - math.floor(share) * #sharers
        local place = (rank - 1 + math.floor(now / turn)) % #sharers
        share = math.floor(share) + (place < over and 1 or 0)
      end
      target = base + share
    end
  end

  if not all_heard then target = math.min(target, claim.equal) end
  return math.max(math.min(target, limit - taken), claim.used, 0)
end

local held, wanted = {}, {}
for name, claim in pairs(claims) do
  held[name] = part_of(name, claim)
  wanted[name] = claim.wanted
end
redis.call('HSET', KEYS[1], process, cjson.encode({ ends = now + lease, held = held, wanted = wanted }))
redis.call('PEXPIRE', KEYS[1], lease)
return cjson.encode(held)
