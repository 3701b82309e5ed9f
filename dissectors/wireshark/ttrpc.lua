-- ttrpc in Wireshark: frames, calls, the hybrid vsock handshake, NRI's multiplexer, and what lies in google.protobuf.Any.
--
-- Wireshark 3.6 and later, Lua 5.2 to 5.4. Payloads go to Wireshark's own Protobuf dissector: it needs the folder of
-- podwire's .proto files among its search paths ("load all files" ticked). `podwire wireshark install` sets that up.

local ttrpc = Proto("ttrpc", "ttrpc")
local any_value = Proto("podwire_any", "Value of google.protobuf.Any")

local HEADER, MUX_HEADER = 10, 8
local REQUEST, RESPONSE, DATA = 1, 2, 3
local REMOTE_CLOSED, NO_DATA = 1, 4
local NRI_PORT = 3128
-- The server ports in podwire's captures: task, events, agent, NRI, other. All are HTTP's otherwise, which keeps them where the
-- bytes are not ours.
local PORTS = { 8088, 3132, 11371, NRI_PORT, 5985 }
local ONE_MORE_SEGMENT = 0x0fffffff
local MORE = {} -- "the rest of this is in later segments"

local TYPES = { [REQUEST] = "Request", [RESPONSE] = "Response", [DATA] = "Data" }
local STATUSES = {
    [0] = "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

local f = {
    length = ProtoField.uint32("ttrpc.length", "Length"),
    stream_id = ProtoField.uint32("ttrpc.stream_id", "Stream id"),
    type = ProtoField.uint8("ttrpc.type", "Type", base.DEC, TYPES),
    flags = ProtoField.uint8("ttrpc.flags", "Flags", base.HEX),
    remote_closed = ProtoField.bool("ttrpc.flags.remote_closed", "Remote closed", 8, nil, 0x01),
    remote_open = ProtoField.bool("ttrpc.flags.remote_open", "Remote open", 8, nil, 0x02),
    no_data = ProtoField.bool("ttrpc.flags.no_data", "No data", 8, nil, 0x04),
    service = ProtoField.string("ttrpc.service", "Service"),
    method = ProtoField.string("ttrpc.method", "Method"),
    payload = ProtoField.bytes("ttrpc.payload", "Payload"),
    payload_length = ProtoField.uint32("ttrpc.payload_length", "Payload length"),
    timeout = ProtoField.relative_time("ttrpc.timeout", "Timeout"),
    metadata = ProtoField.string("ttrpc.metadata", "Metadata"),
    status = ProtoField.int32("ttrpc.status", "Status", base.DEC, STATUSES),
    message = ProtoField.string("ttrpc.status_message", "Status message"),
    request_in = ProtoField.framenum("ttrpc.request_in", "Request in", base.NONE, frametype.REQUEST),
    response_in = ProtoField.framenum("ttrpc.response_in", "Response in", base.NONE, frametype.RESPONSE),
    time = ProtoField.relative_time("ttrpc.time", "Time since the request"),
    from_client = ProtoField.bool("ttrpc.from_client", "From the client"),
    handshake = ProtoField.string("ttrpc.hvsock", "Hybrid vsock handshake"),
    channel = ProtoField.uint32("ttrpc.nri.channel", "Channel", base.DEC,
        { [1] = "the runtime calls the plugin", [2] = "the plugin calls the runtime" }),
    mux_length = ProtoField.uint32("ttrpc.nri.length", "Length in the multiplexer"),
    fragment = ProtoField.bytes("ttrpc.fragment", "Part of a frame"),
    unknown = ProtoField.bytes("ttrpc.unknown", "Not ttrpc"),
    unread = ProtoField.bytes("ttrpc.unread", "Not read to its end"),
}
ttrpc.fields = {}
for _, field in pairs(f) do table.insert(ttrpc.fields, field) end

local e = {
    failed = ProtoExpert.new("ttrpc.failed", "The call failed", expert.group.RESPONSE_CODE, expert.severity.WARN),
    unsound = ProtoExpert.new("ttrpc.unsound", "No ttrpc frame", expert.group.MALFORMED, expert.severity.ERROR),
    broken = ProtoExpert.new("ttrpc.broken", "The envelope does not parse", expert.group.MALFORMED,
        expert.severity.ERROR),
    unread = ProtoExpert.new("ttrpc.unread.expert", "What is inside is malformed", expert.group.MALFORMED,
        expert.severity.ERROR),
    late = ProtoExpert.new("ttrpc.late", "Answered after the timeout", expert.group.SEQUENCE, expert.severity.NOTE),
    orphan = ProtoExpert.new("ttrpc.orphan", "The request is not in this capture", expert.group.SEQUENCE,
        expert.severity.NOTE),
}
ttrpc.experts = { e.failed, e.unsound, e.broken, e.unread, e.late, e.orphan }

local tcp_stream = Field.new("tcp.stream")
local tcp_sequence = Field.new("tcp.seq")
local protobuf_name = Field.new("protobuf.field.name")
local protobuf_string = Field.new("protobuf.field.value.string")
local protobuf = Dissector.get("protobuf")
local json = Dissector.get("json")
local tcp_ports = DissectorTable.get("tcp.port")
local before = {} -- who had our ports, by port

local connections = {} -- by tcp.stream
local told = {} -- what the Info column shall say of the bytes under way

function ttrpc.init()
    connections = {}
end

local function connection_of()
    local stream = tcp_stream()
    local key = stream and stream.value or -1
    local connection = connections[key]
    if not connection then
        -- kind: nil, "ttrpc" or "nri". calls: by channel (0 outside NRI) and stream id. parts: what a channel has of a
        -- frame that came in several of the multiplexer's. whole: frames put together so, by where they ended.
        connection = { calls = { [0] = {}, {}, {} }, parts = {}, whole = {} }
        connections[key] = connection
    end
    return connection
end

-- Protobuf by hand: the envelopes alone. Each function takes a string and a position in it (from 1), and returns nil
-- where the bytes end or are no protobuf.

local function varint(data, at)
    local number, low, factor = 0, 0, 1
    for index = 0, 9 do
        local byte = data:byte(at + index)
        if not byte then return nil end
        number = number + (byte % 128) * factor
        if index < 5 then low = (low + (byte % 128) * factor) % 4294967296 end
        if byte < 128 then return number, at + index + 1, low end
        factor = factor * 128
    end
    return nil
end

-- The fields as a list of { tag, number or content, position of the content }.
local function fields_of(data)
    local fields, at = {}, 1
    while at <= #data do
        local tag, number, low, position
        tag, position = varint(data, at)
        if not tag or tag < 8 or tag >= 4294967296 then return nil end
        local wire = tag % 8
        if wire == 0 then
            number, position, low = varint(data, position)
            if not number then return nil end
            table.insert(fields, { tag = tag, number = number, low = low, at = at, stop = position })
        elseif wire == 2 then
            number, position = varint(data, position)
            if not number or position + number - 1 > #data then return nil end
            table.insert(fields, { tag = tag, text = data:sub(position, position + number - 1), at = position,
                stop = position + number })
            position = position + number
        elseif wire == 1 or wire == 5 then
            position = position + (wire == 1 and 8 or 4)
            if position - 1 > #data then return nil end
        else
            return nil
        end
        at = position
    end
    return fields
end

-- Text of the wire, fit for a tree and a column.
local function shown(text)
    return (text:gsub("[%c\127]", function(char) return string.format("\\x%02x", char:byte()) end))
end

-- Whether a frame's header, and as much of its payload as is there, can be ttrpc. `data` begins with the header.
local function is_sound(data)
    if #data < HEADER then return false end
    local b1, b2, b3, b4, s1, s2, s3, s4, kind, flags = data:byte(1, HEADER)
    if b1 ~= 0 or kind < REQUEST or kind > DATA or flags > 7 or s4 % 2 == 0 or s1 >= 128 then return false end
    local length = (b2 * 256 + b3) * 256 + b4
    local first, second = data:byte(HEADER + 1, HEADER + 2)
    if kind == REQUEST then
        if length < 4 then return false end
        if not first then return true end
        if first ~= 0x0a or second == 0 then return false end
        local name = second and data:sub(HEADER + 3, HEADER + 2 + math.min(second, 127)) or ""
        return not name:find("[^%w%._]")
    elseif kind == RESPONSE then
        return flags == 0 and (length == 0 or not first or first == 0x0a or first == 0x12)
    end
    return true
end

-- Whether `data` begins with a frame of NRI's multiplexer that holds the beginning of a ttrpc frame.
local function is_mux(data)
    if #data < MUX_HEADER + HEADER or not data:find("^\0\0\0[\1\2]\0") then return false end
    local _, b2, b3, b4 = data:byte(5, 8)
    local _, i2, i3, i4 = data:byte(9, 12)
    local length, inner = (b2 * 256 + b3) * 256 + b4, (i2 * 256 + i3) * 256 + i4
    return length >= HEADER and length <= HEADER + inner and is_sound(data:sub(MUX_HEADER + 1))
end

-- Whether a connection's first bytes are the header of one of the multiplexer's frames and no more: some write that alone.
local function is_mux_header(data)
    local sequence = tcp_sequence()
    return #data == MUX_HEADER and sequence ~= nil and sequence.value == 1 and data:find("^\0\0\0[\1\2]\0") ~= nil
end

local function handshake_in(data)
    return data:match("^[Cc][Oo][Nn][Nn][Ee][Cc][Tt] %d+\n") or data:match("^OK %d+\n")
end

-- Whether `data` is the beginning of such a line, and not the whole of it.
local function may_be_handshake(data)
    local text = data:lower()
    for _, word in ipairs({ "connect ", "ok " }) do
        if #data < 24 and text:sub(1, #word) == word:sub(1, #text) then return not data:find("\n", 1, true) end
    end
    return false
end

-- The place (from 1) of the next thing in `data`, behind its first byte, that looks like a frame; nil: there is none.
local function next_sound(data, kind)
    local at = 1
    while true do
        at = data:find("\0", at + 1, true)
        if not at then return nil end
        local there = data:sub(at, at + MUX_HEADER + HEADER + 130)
        if (kind == "nri" and is_mux(there)) or (kind ~= "nri" and is_sound(there) and #there > HEADER) then
            return at
        end
    end
end

-- Hand bytes to another dissector. What Wireshark shows as "malformed packet" comes back from there as an error.
local function hand_over(dissector, tvb, pinfo, tree)
    if not pcall(dissector.call, dissector, tvb, pinfo, tree) then
        tree:add(f.unread, tvb()):add_proto_expert_info(e.unread)
    end
end

local function protobuf_call(tvb, pinfo, tree, what)
    pinfo.private["pb_msg_type"] = what
    hand_over(protobuf, tvb, pinfo, tree)
end

local function name_call(call, tree)
    tree:add(f.service, call.service):set_generated()
    tree:add(f.method, call.method):set_generated()
end

local function add_payload(range, pinfo, tree, call, side)
    tree:add(f.payload_length, range and range:len() or 0):set_generated()
    if not range then return end
    tree:add(f.payload, range)
    if call then
        protobuf_call(range:tvb(), pinfo, tree,
            "application/grpc,/" .. call.service .. "/" .. call.method .. "," .. side)
    end
end

local function range_of(body, field)
    if field.stop == field.at then return nil end
    return body(field.at - 1, field.stop - field.at)
end

local function dissect_request(body, data, pinfo, tree, at)
    local call = { service = "", method = "" }
    local fields = fields_of(data)
    if not fields then
        tree:add_proto_expert_info(e.broken)
        return nil
    end
    local payload
    for _, field in ipairs(fields) do
        if field.tag == 0x0a then
            call.service = shown(field.text)
            if field.text ~= "" then tree:add(f.service, range_of(body, field), call.service) end
        elseif field.tag == 0x12 then
            call.method = shown(field.text)
            if field.text ~= "" then tree:add(f.method, range_of(body, field), call.method) end
        elseif field.tag == 0x1a then
            payload = range_of(body, field)
        elseif field.tag == 0x20 then
            call.timeout = field.number / 1e9
            if field.number < 2 ^ 53 then
                local seconds = math.floor(field.number / 1e9)
                tree:add(f.timeout, body(field.at - 1, field.stop - field.at),
                    NSTime.new(seconds, math.floor(field.number - seconds * 1e9)))
            end
        elseif field.tag == 0x2a and field.text ~= "" then
            local pair = { key = "", value = "" }
            for _, inner in ipairs(fields_of(field.text) or {}) do
                if inner.tag == 0x0a then pair.key = inner.text elseif inner.tag == 0x12 then pair.value = inner.text end
            end
            tree:add(f.metadata, range_of(body, field), shown(pair.key) .. ": " .. shown(pair.value))
        end
    end
    if not pinfo.visited then
        call.frame, call.time = pinfo.number, pinfo.rel_ts
        call.client = tostring(pinfo.src) .. " " .. pinfo.src_port
        at.calls[at.id] = call
    end
    return call, payload
end

local function dissect_response(body, data, tree, note)
    local fields = fields_of(data)
    if not fields then
        tree:add_proto_expert_info(e.broken)
        return nil, nil
    end
    local code, message, status, payload = 0, "", nil, nil
    for _, field in ipairs(fields) do
        if field.tag == 0x12 then
            payload = range_of(body, field)
        elseif field.tag == 0x0a then
            local inside = fields_of(field.text)
            if not inside then tree:add_proto_expert_info(e.broken) end
            for _, inner in ipairs(inside or {}) do
                if inner.tag == 0x08 then
                    code = inner.low >= 2147483648 and inner.low - 4294967296 or inner.low
                elseif inner.tag == 0x12 then
                    message = shown(inner.text)
                end
            end
            status = range_of(body, field)
        end
    end
    local item = status and tree:add(f.status, status, code) or tree:add(f.status, code):set_generated()
    if message ~= "" then tree:add(f.message, status, message) end
    if code ~= 0 then
        item:add_proto_expert_info(e.failed, (STATUSES[code] or ("code " .. code)) .. ": " .. message)
    end
    note.text = (STATUSES[code] or ("code " .. code)) .. (message ~= "" and " " .. message or "")
    return status, payload
end

-- One whole frame: header and body. `at` says where it stands: calls of its connection (or channel), the stream id.
local function dissect_frame(tvb, pinfo, root, calls)
    local length, id = tvb(0, 4):uint(), tvb(4, 4):uint()
    local kind, flags = tvb(8, 1):uint(), tvb(9, 1):uint()
    local there = math.min(length, tvb:len() - HEADER)
    local tree = root:add(ttrpc, tvb(0, HEADER + there))
    tree:add(f.length, tvb(0, 4))
    tree:add(f.stream_id, tvb(4, 4))
    tree:add(f.type, tvb(8, 1))
    local flag_tree = tree:add(f.flags, tvb(9, 1))
    flag_tree:add(f.remote_closed, tvb(9, 1))
    flag_tree:add(f.remote_open, tvb(9, 1))
    flag_tree:add(f.no_data, tvb(9, 1))
    local body = there > 0 and tvb(HEADER, there) or nil
    local data = body and tvb:raw(HEADER, there) or ""
    local call, payload, status
    local note = { text = "" }
    local side = "request"
    if kind == REQUEST then
        call, payload = dissect_request(body, data, pinfo, tree, { calls = calls, id = id })
    else
        call = calls[id]
        local from_client = call and call.client == tostring(pinfo.src) .. " " .. pinfo.src_port
        if kind == RESPONSE then from_client = false end
        side = from_client and "request" or "response"
        if call then name_call(call, tree) else tree:add_proto_expert_info(e.orphan) end
        if kind == RESPONSE then
            status, payload = dissect_response(body, data, tree, note)
        elseif body and flags % (2 * NO_DATA) < NO_DATA then
            payload = body
        end
        local ends = kind == RESPONSE or (not from_client and flags % 2 == REMOTE_CLOSED)
        if call and call.frame then
            tree:add(f.request_in, call.frame):set_generated()
            if not pinfo.visited and ends then call.answered, call.answered_at = pinfo.number, pinfo.rel_ts end
            local took = math.max(pinfo.rel_ts - call.time, 0)
            local seconds = math.floor(took)
            tree:add(f.time, NSTime.new(seconds, math.floor((took - seconds) * 1e9 + 0.5))):set_generated()
            if ends and call.timeout and call.timeout > 0 and took > call.timeout then
                tree:add_proto_expert_info(e.late)
            end
        end
    end
    tree:add(f.from_client, side == "request"):set_generated()
    if call and call.answered and side == "request" then
        tree:add(f.response_in, call.answered):set_generated()
    elseif kind == REQUEST and calls[id] and calls[id].answered then
        tree:add(f.response_in, calls[id].answered):set_generated()
    end
    local name = call and (call.service:match("([^%.]*)$") .. "/" .. call.method) or ("stream " .. id)
    local text = name .. " " .. TYPES[kind]:lower() .. (note.text ~= "" and " " .. note.text or "")
    tree:append_text(", " .. text)
    table.insert(told, text)
    if status then protobuf_call(status:tvb(), pinfo, tree, "message,google.rpc.Status") end
    add_payload(payload, pinfo, tree, call, side)
end

-- Dissect the ttrpc frames in a channel's bytes of one multiplexer frame. Frames may begin and end anywhere in these.
local function dissect_channel(tvb, pinfo, root, connection, channel, key)
    local calls = connection.calls[channel]
    local whole = connection.whole[key]
    if not pinfo.visited then
        local slot = channel .. " " .. pinfo.src_port
        local parts = connection.parts[slot]
        local data = tvb:raw()
        if parts then
            table.insert(parts, data)
            parts.size = parts.size + #data
            if parts.size >= parts.wanted then data = table.concat(parts) else data = nil end
        end
        whole = { joined = parts ~= nil, frames = {} }
        local at = 1
        while data and at <= #data do
            local rest = #data - at + 1
            if rest < HEADER then break end
            if not is_sound(data:sub(at, at + HEADER + 130)) then
                whole.unsound = true
                at = #data + 1
                break
            end
            local _, b2, b3, b4 = data:byte(at, at + 3)
            local size = HEADER + (b2 * 256 + b3) * 256 + b4
            if size > rest then break end
            table.insert(whole.frames, parts and data:sub(at, at + size - 1) or { at - 1, size })
            at = at + size
        end
        if data and at <= #data then
            local rest = data:sub(at)
            local wanted = HEADER
            if #rest >= HEADER then
                local _, b2, b3, b4 = rest:byte(1, 4)
                wanted = HEADER + (b2 * 256 + b3) * 256 + b4
            end
            connection.parts[slot] = { rest, size = #rest, wanted = wanted }
        elseif data then
            connection.parts[slot] = nil
        end
        connection.whole[key] = whole
    end
    if not whole then return end -- dissected the second time alone: Wireshark has lost what came before
    for _, frame in ipairs(whole.frames) do
        if type(frame) == "string" then
            dissect_frame(ByteArray.new(frame, true):tvb("NRI channel " .. channel), pinfo, root, calls)
        else
            dissect_frame(tvb(frame[1], frame[2]):tvb(), pinfo, root, calls)
        end
    end
    if whole.unsound then
        root:add(f.unknown, tvb()):add_proto_expert_info(e.unsound)
    elseif #whole.frames == 0 and tvb:len() > 0 then
        root:add(f.fragment, tvb())
    end
end

-- What begins at `offset`: returns how many bytes it has, or MORE and how many of them are missing.
local function dissect_next(tvb, offset, pinfo, root, connection, can_wait)
    local rest = tvb:len() - offset
    local data = tvb:raw(offset, math.min(rest, MUX_HEADER + HEADER + 130))
    if data:byte(1) ~= 0 then
        local line = handshake_in(data)
        if line then
            root:add(ttrpc, tvb(offset, #line)):add(f.handshake, tvb(offset, #line), shown(line:sub(1, -2)))
            table.insert(told, shown(line:sub(1, -2)))
            return #line
        end
        if not connection.kind and may_be_handshake(data) and can_wait then return MORE, ONE_MORE_SEGMENT end
    end
    if not connection.kind or (connection.kind == "ttrpc" and not is_sound(data)) then
        if is_mux(data) or (data:find("^\0\0\0[\1\2]\0\0\0") and
            (pinfo.src_port == NRI_PORT or pinfo.dst_port == NRI_PORT) and not is_sound(data)) then
            connection.kind = "nri"
        elseif is_sound(data) then
            connection.kind = "ttrpc"
        end
    end
    local header = connection.kind == "nri" and MUX_HEADER or HEADER
    if rest < header and data:byte(1) == 0 and can_wait then return MORE, ONE_MORE_SEGMENT end
    local sound
    if connection.kind == "nri" then
        sound = data:find("^\0\0..\0") ~= nil
    else
        sound = is_sound(data)
    end
    if not sound then
        local found = next_sound(tvb:raw(offset), connection.kind)
        local size = found and found - 1 or rest
        root:add(ttrpc, tvb(offset, size)):add(f.unknown, tvb(offset, size)):add_proto_expert_info(e.unsound)
        table.insert(told, "no ttrpc frame")
        return size
    end
    if connection.kind == "nri" then
        local channel, length = tvb(offset, 4):uint(), tvb(offset + 4, 4):uint()
        if length > rest - MUX_HEADER and can_wait then return MORE, length - rest + MUX_HEADER end
        local there = math.min(length, rest - MUX_HEADER)
        local tree = root:add(ttrpc, tvb(offset, MUX_HEADER + there), "NRI multiplexer, channel " .. channel)
        tree:add(f.channel, tvb(offset, 4))
        tree:add(f.mux_length, tvb(offset + 4, 4))
        if there > 0 and connection.calls[channel] and channel > 0 then
            local key = table.concat({ pinfo.number, tvb:offset(), tvb:len(), offset }, " ")
            dissect_channel(tvb(offset + MUX_HEADER, there):tvb(), pinfo, root, connection, channel, key)
        elseif there > 0 then
            tree:add(f.unknown, tvb(offset + MUX_HEADER, there))
        end
        return MUX_HEADER + there
    end
    local size = HEADER + tvb(offset, 4):uint()
    if size > rest and can_wait then return MORE, size - rest end
    size = math.min(size, rest)
    dissect_frame(tvb(offset, size):tvb(), pinfo, root, connection.calls[0])
    return size
end

local function begins_ours(data)
    return is_sound(data) and #data > HEADER or is_mux(data) or handshake_in(data) ~= nil
end

local function dissect_all(tvb, pinfo, root, can_wait)
    local connection = connection_of()
    if not connection.kind and not connection.ours then
        local data = tvb:raw(0, math.min(tvb:len(), 200))
        local other = before[pinfo.dst_port] or before[pinfo.src_port]
        if other and #data > 0 and data:byte(1) ~= 0 and not handshake_in(data) then
            hand_over(other, tvb, pinfo, root)
            return tvb:len()
        end
        connection.ours = true
    end
    told = {}
    local offset = 0
    while offset < tvb:len() do
        local size, missing = dissect_next(tvb, offset, pinfo, root, connection, can_wait)
        if size == MORE then
            if not can_wait then
                root:add(ttrpc, tvb(offset)):add(f.fragment, tvb(offset))
                break
            end
            pinfo.desegment_offset, pinfo.desegment_len = offset, missing
            break
        end
        offset = offset + size
    end
    pinfo.cols.protocol = "ttrpc" -- last: the Protobuf dissector writes into both columns
    if #told > 0 then
        pinfo.cols.info:set(table.concat(told, ", ") .. " ")
        pinfo.cols.info:fence()
    end
    return tvb:len()
end

function ttrpc.dissector(tvb, pinfo, root)
    return dissect_all(tvb, pinfo, root, pinfo.can_desegment > 0)
end

-- On any port: the first bytes of a connection, or of a segment in the middle of one, decide.
local function heuristic(tvb, pinfo, root)
    local data = tvb:raw(0, math.min(tvb:len(), 200))
    if is_mux_header(data) then
        connection_of().kind = "nri"
    elseif tvb:len() < HEADER or not begins_ours(data) then
        return false
    end
    pinfo.conversation = ttrpc
    -- TCP waits for more here as elsewhere; `can_desegment` is a count that each layer of calls takes one off, and is at
    -- its end here.
    dissect_all(tvb, pinfo, root, pinfo.caplen == pinfo.len)
    return true
end

-- The value of an Any: by its type URL, which stands before it, JSON where it is that.
function any_value.dissector(tvb, pinfo, root)
    local names, strings = { protobuf_name() }, { protobuf_string() }
    local url = ""
    if #names > 1 and names[#names - 1].display == "type_url" and #strings > 0 then
        url = strings[#strings].display
    end
    if tvb:len() == 0 then return 0 end
    local first = tvb(0, 1):uint()
    if first == 0x7b or first == 0x5b then
        hand_over(json, tvb, pinfo, root)
    elseif url ~= "" then
        protobuf_call(tvb, pinfo, root, "message," .. url:match("([^/]*)$"))
    end
    return tvb:len()
end

ttrpc:register_heuristic("tcp", heuristic)
for _, port in ipairs(PORTS) do
    before[port] = tcp_ports:get_dissector(port)
    tcp_ports:add(port, ttrpc)
end
DissectorTable.get("protobuf_field"):add("google.protobuf.Any.value", any_value)
