"""Captures: sockets' bytes into ordinary pcapng, and any pcap with gRPC or ttrpc in it back into byte streams.

Writing: `conversation` (connections as TCP conversations, in pcapng blocks). Reading: `reader` (files, gzip, standard
input) over `pcapng` and `pcap`, then `link` (one packet's headers) and `flows` (byte streams in order). What the bytes
mean is the dissectors' matter.
"""
