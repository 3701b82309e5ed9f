-- A stand-in for Wireshark's Lua API, as much of it as ttrpc.lua uses: runs the dissector in a plain Lua.
--
--   lua wireshark_stub.lua ttrpc.lua < LINES      each line: source port, destination port, hex bytes
--
-- Prints what the dissector adds to the tree, a field a line; what it waits for stands before the next line's bytes of
-- the same ports, as TCP has it.

local range_of

local function make_tvb(data, start)
    local tvb = { data = data, start = start or 0 }
    function tvb:len() return #self.data end
    function tvb:offset() return self.start end
    function tvb:raw(offset, length)
        offset = offset or 0
        return self.data:sub(offset + 1, length and offset + length or -1)
    end
    return setmetatable(tvb, { __call = function(self, offset, length) return range_of(self, offset or 0, length) end })
end

function range_of(tvb, offset, length)
    length = length or #tvb.data - offset
    assert(math.type == nil or math.type(offset) or offset == math.floor(offset), "no whole number")
    assert(offset >= 0 and length >= 0 and offset + length <= #tvb.data, "out of range")
    local range = make_tvb(tvb.data:sub(offset + 1, offset + length), tvb.start + offset)
    function range:tvb() return make_tvb(self.data, self.start) end
    function range:uint()
        local number = 0
        for index = 1, #self.data do number = number * 256 + self.data:byte(index) end
        return number
    end
    return range
end

local function shown(value)
    if type(value) == "table" and value.data then
        return (value.data:gsub(".", function(char) return string.format("%02x", char:byte()) end))
    end
    return tostring(value)
end

local function tree()
    local item = {}
    function item:add(what, ...)
        local values = { ... }
        local value = values[#values]
        if type(what) == "table" and what.name then
            if type(value) == "table" and value.data and what.kind:find("^u?int") then value = value:uint() end
            print(what.name .. "=" .. shown(value))
        end
        return tree()
    end
    function item:add_proto_expert_info(what, text) print("expert=" .. what .. (text and " " .. text or "")) end
    function item:set_generated() return self end
    function item:append_text() end
    return item
end

base = { NONE = 0, DEC = 1, HEX = 2 }
frametype = { REQUEST = 1, RESPONSE = 2 }
expert = { group = { RESPONSE_CODE = 1, MALFORMED = 2, SEQUENCE = 3 }, severity = { WARN = 1, ERROR = 2, NOTE = 3 } }
NSTime = { new = function(seconds, nanoseconds) return string.format("%d.%09d", seconds, nanoseconds) end }
ProtoField = setmetatable({}, {
    __index = function(_, kind) return function(name) return { kind = kind, name = name } end end,
})
ProtoExpert = { new = function(name) return name end }
Proto = setmetatable({}, {
    __call = function(_, name)
        local proto = { proto = name }
        function proto:register_heuristic(_, heuristic) self.heuristic = heuristic end
        Made = Made or proto
        return proto
    end,
})
ByteArray = { new = function(data) return { tvb = function() return make_tvb(data) end } end }

local now = { stream = 0 }
Field = {
    new = function(name)
        return function()
            if name == "tcp.stream" then return { value = now.stream } end
            if name == "tcp.seq" then return { value = now.sequence } end
        end
    end,
}
Dissector = {
    get = function(name)
        return { call = function(_, tvb, pinfo) print(name .. "=" .. (pinfo.private.pb_msg_type or shown(tvb))) end }
    end,
}
DissectorTable = {
    get = function()
        return { add = function() end, get_dissector = function() return Dissector.get("http") end }
    end,
}

dofile(arg[1])
Made.init()
local number, waiting, seen = 0, {}, {}
for line in io.lines() do
    local source, destination, hex = line:match("^(%d+) (%d+) (%x*)$")
    number = number + 1
    local key = source .. " " .. destination
    local fresh = (hex:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end))
    local data = (waiting[key] or "") .. fresh
    now.sequence = (seen[key] or 0) + 1
    seen[key] = (seen[key] or 0) + #fresh
    local columns = setmetatable({}, { __index = function() return { set = print, fence = function() end } end })
    columns.info = { set = function(_, text) print("info=" .. text) end, fence = function() end }
    local pinfo = {
        number = number, src = "a", dst = "b", src_port = tonumber(source), dst_port = tonumber(destination),
        cols = columns, private = {}, visited = false, rel_ts = number / 1000, can_desegment = 1,
        caplen = 1, len = 1,
    }
    Made.dissector(make_tvb(data), pinfo, tree())
    waiting[key] = pinfo.desegment_len and data:sub(pinfo.desegment_offset + 1) or nil
end
