"""Pure decoding, sans-I/O: bytes in, frames and messages out. No sockets, files, clocks or UI."""
