"""The stand-in client, in kubelet's place: a pod's life over CRI, from Version to RemovePodSandbox.

In: the CRI socket's path, and how long to think between calls. Out: nothing; what it does is seen in a trace. Its exit
status is 1 if the runtime answered other than this story has it.
"""

from __future__ import annotations

import argparse
import sys
import time

from tracer.demo import content
from tracer.demo.cri_server import IMAGE_SERVICE, RUNTIME_SERVICE
from tracer.demo.grpc_wire import GrpcClient
from tracer.demo.rpc import NOT_FOUND, UNKNOWN, Proto, RpcError, Schemas

USER_AGENT = "podwire-demo (stand-in client)"


class Client:
    """Calls by name, over one connection for each of CRI's two services, as kubelet has them."""

    def __init__(self, path: str, timeout_s: float, pause_s: float) -> None:
        self.schemas = Schemas()
        self._timeout_s, self._pause_s = timeout_s, pause_s
        self.connections = {
            RUNTIME_SERVICE: GrpcClient(path, USER_AGENT),
            IMAGE_SERVICE: GrpcClient(path, USER_AGENT),
        }

    def runtime(self, method: str, **fields: object) -> Proto:
        return self.call(RUNTIME_SERVICE, method, **fields)

    def image(self, method: str, **fields: object) -> Proto:
        return self.call(IMAGE_SERVICE, method, **fields)

    def call(self, service: str, method: str, **fields: object) -> Proto:
        """Make a call and think for a while. Raises RpcError."""
        time.sleep(self._pause_s)
        input_type, output_type = self.schemas.types(service, method)
        payload = self.schemas.make(input_type, **fields).SerializeToString()
        answer = self.schemas.make(output_type)
        answer.ParseFromString(self.connections[service].unary(service, method, payload, self._timeout_s))
        return answer

    def fails(self, code: int, method: str, **fields: object) -> None:
        """Make a call that has to fail with this status."""
        try:
            self.runtime(method, **fields)
        except RpcError as error:
            if error.code != code:
                raise
        else:
            raise SystemExit(f"{method} should have failed with status {code}")

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()


def pod_life(client: Client) -> None:
    """One pod with a container that runs, and one that does not start."""
    client.runtime("Version", version="0.1.0")
    client.runtime("Status")
    watching = client.connections[RUNTIME_SERVICE]
    stream_id, _ = watching.stream(RUNTIME_SERVICE, "GetContainerEvents", b"")
    client.runtime("ListPodSandbox")
    pod_id = client.runtime("RunPodSandbox", config=content.POD_CONFIG).pod_sandbox_id
    client.runtime("PodSandboxStatus", pod_sandbox_id=pod_id)
    client.image("ImageStatus", image={"image": content.IMAGE})
    client.image("PullImage", image={"image": content.IMAGE}, sandbox_config=content.POD_CONFIG)

    web = _create(client, pod_id, "web", "/bin/web")
    client.runtime("StartContainer", container_id=web)
    client.runtime("ContainerStatus", container_id=web)
    client.runtime("ExecSync", container_id=web, cmd=["cat", "/etc/hostname"], timeout=10)
    client.runtime("ExecSync", container_id=web, cmd=["sh", "-c", "curl -s localhost:8080/ready"], timeout=10)

    sidecar = _create(client, pod_id, "metrics", content.MISSING_PROGRAM)
    client.fails(UNKNOWN, "StartContainer", container_id=sidecar)
    client.runtime("ContainerStatus", container_id=sidecar)
    client.runtime("RemoveContainer", container_id=sidecar)
    client.fails(NOT_FOUND, "ContainerStatus", container_id=sidecar)

    client.runtime("ListContainerStats")
    client.runtime("StopContainer", container_id=web, timeout=30)
    client.runtime("RemoveContainer", container_id=web)
    client.runtime("StopPodSandbox", pod_sandbox_id=pod_id)
    client.runtime("RemovePodSandbox", pod_sandbox_id=pod_id)
    watching.cancel(stream_id)


def _create(client: Client, pod_id: str, name: str, program: str) -> str:
    config = content.container_config(name, program)
    created = client.runtime("CreateContainer", pod_sandbox_id=pod_id, config=config, sandbox_config=content.POD_CONFIG)
    container_id: str = created.container_id
    return container_id


def main() -> None:
    """Play the story once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("--timeout", type=float, default=20, help="seconds that a call may take")
    parser.add_argument("--pause", type=float, default=0, help="seconds before each call")
    args = parser.parse_args()
    client = Client(args.socket, args.timeout, args.pause)
    try:
        pod_life(client)
    except RpcError as error:
        sys.exit(f"the stand-in client: {error}")
    finally:
        client.close()


if __name__ == "__main__":
    main()
