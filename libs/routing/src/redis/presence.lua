-- Shared by the scripts that write what becomes of a device or a node as events: numbers and tags as text, and times as the API writes them.

-- Lua's own tostring would write a microsecond time as 1.7e+15.
local function integer(number)
  return string.format('%.0f', number)
end

-- A damaged row costs the event its tags, never the change itself. Most devices have none.
local function joinedTags(json)
  if not json or json == '[]' then return '' end
  local parsed, tags = pcall(function() return table.concat(cjson.decode(json), ',') end)
  return parsed and tags or ''
end

-- RFC 3339 in UTC. Scripts have no os.date; years are counted from March, so that the day that may be missing is the last one.
local function timeText(ms)
  local days, rest = math.floor(ms / 86400000) + 719468, ms % 86400000
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, math.floor(rest / 3600000), math.floor(rest / 60000) % 60,
    math.floor(rest / 1000) % 60, rest % 1000)
end
