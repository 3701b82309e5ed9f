"""Between the sockets: exchange a socket for our own, forward every byte, keep a copy in shared memory.

Three ideas. A path is taken over by `renameat2(RENAME_EXCHANGE)`, so it answers at every moment (exchange.py). Bytes
in transit lie in kernel objects alone: a chunk is peeked into a ring of shared memory, then spliced through a pipe
(pump.py). And whoever reads that ring can be slow, stopped or dead without the traffic noticing (ring.py).

This room imports the standard library and its own folder alone: it lies in the path of a live runtime, so it must be
small, and must go on after podwire was upgraded or uninstalled.
"""
