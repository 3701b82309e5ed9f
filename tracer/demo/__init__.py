"""A stand-in runtime, so that podwire can be seen and tried on a machine without one.

Three kinds of process, each of its own, over real unix sockets: a client (`client`, in kubelet's place), a CRI server
(`cri_server`, in containerd's) and a shim a pod (`shim`). They speak gRPC and ttrpc as the real ones do, with the same
schemas; only what they say is made up, no container runs. `run` puts them together; the real relay gets between.
"""
