"""A real containerd's pod in two browsers at once, one of which is killed; the trace and the pod do not notice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd
from tests.e2e.cri import CriClient, Pod
from tests.tracer.cli.browser import aiohttp, tab, url_of
from tests.tracer.cli.live import Trace

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def test_a_pods_life_is_seen_in_two_browsers(
    make_containerd: Callable[..., Containerd], registry: Registry, tmp_path: Path
) -> None:
    containerd = make_containerd()
    inode = os.stat(containerd.address).st_ino
    sockets = (f"--socket=cri={containerd.address}", f"--socket=events={containerd.events_address}")
    trace = Trace(
        tmp_path, "--web", "0", "-w", str(tmp_path / "pod.pcapng"), *sockets, "--socket=task=/run/containerd/s"
    )
    url = url_of(trace)

    async def look(pod: Pod) -> None:
        async with aiohttp.ClientSession() as one, aiohttp.ClientSession() as other:
            async with tab(one, url) as first, tab(other, url) as second:
                await first.wait_for("in flight")
                await asyncio.to_thread(pod.run)
                for words in ("RunPodSandbox", "/tasks/create"):
                    await first.wait_for(words)
                    await second.wait_for(words)
                first.kill()
            async with tab(one, url) as third:
                await asyncio.to_thread(pod.start_container)
                await third.wait_for("StartContainer")
                await asyncio.to_thread(pod.remove)
                await third.wait_for("RemovePodSandbox")
                await third.wait_for("0 in flight")

    try:
        with CriClient(containerd.address, registry) as client:
            asyncio.run(look(Pod(client, f"seen-{containerd.token}", containerd.cgroup_parent)))
        assert trace.interrupt() == 0
        assert os.stat(containerd.address).st_ino == inode
    finally:
        trace.close()
