#!lua flags=no-writes
-- Read the count of a partition and the number of entries in its lanes, at one moment. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, how many lanes to read at most
-- Returns  {the count (-1: no number), the number of entries in the lanes of ready and claimed}, or {} if there are
--          more lanes
--
-- Keeps:   Both numbers are of one moment, so pushes and acknowledgements under way make no difference.

local tag, most = ARGV[1], tonumber(ARGV[2])
-- key_faults.py reports a key of another type; without it there is nothing to compare.
local lanes = unless_wrong(most + 1, 'ZCARD', tag .. 'ready') + unless_wrong(most + 1, 'ZCARD', tag .. 'claimed')
if lanes > most then return {} end
return { tonumber(unless_wrong('', 'GET', tag .. 'count') or '0') or -1, standing(tag) }
