"""Whose a line of a log is: by ids, uids and names as the runtimes write them; of several pods it is none's."""

from __future__ import annotations

import pytest

from tests.tracer.made import START
from tests.tracer.story.node import Node
from tracer.logs import Logged
from tracer.story.mentions import mentions

ONE, TWO, MAIN, EXEC = ("1a" * 32, "2b" * 32, "3c" * 32, "4d" * 32)
UID = "0a1b2c3d-0000-4000-8000-0123456789ab"


def line(message: str) -> Logged:
    return Logged(START, "containerd", None, "", "", message.encode(), cut=False)


def placed(node: Node, message: str) -> tuple[str, str]:
    """The ids of the pod and the container."""
    found = line(message)
    node.correlator.update(found)
    pod, container = found.pod, found.container
    return "" if pod is None else pod.id, "" if container is None else container.id


@pytest.fixture
def told(node: Node) -> Node:
    """A pod of a kubelet with a container, and a static one."""
    for name, sandbox, uid in (("web-0", ONE, UID), ("etcd-node", TWO, "f" * 32)):
        node.ask(name, "RunPodSandbox", config={"metadata": {"name": name, "namespace": "default", "uid": uid}})
        node.answer(name, pod_sandbox_id=sandbox)
    node.ask("c", "CreateContainer", pod_sandbox_id=ONE, config={"metadata": {"name": "main"}})
    node.answer("c", container_id=MAIN)
    return node


@pytest.mark.parametrize(
    ("message", "pod", "container"),
    [
        (f'msg="RunPodSandbox returns sandbox id \\"{ONE}\\""', ONE, ""),
        (f'msg="CreateContainer within sandbox \\"{ONE}\\" returns container id \\"{MAIN}\\""', ONE, MAIN),
        (f"msg=\"exec {EXEC} in container {MAIN}\"", ONE, MAIN),
        (f"name=containerd-shim-v2 pid=1 sandbox={TWO} source=agent", TWO, ""),
        ('RunPodSandbox for &PodSandboxMetadata{Name:web-0,Uid:x,Namespace:default,Attempt:0,}', ONE, ""),
        (r'{"msg":"for \u0026PodSandboxMetadata{Name:web-0,Uid:x,Namespace:default,Attempt:0,}"}', ONE, ""),
        ('{"msg":"started","pod":{"name":"web-0","namespace":"default"}}', ONE, ""),
        ('{"msg":"SyncLoop ADD","pods":[{"name":"etcd-node","namespace":"default"}]}', TWO, ""),
        (f'RunPodSandbox for &PodSandboxMetadata{{Name:other,Uid:{"f" * 32},Namespace:x,Attempt:0,}}', TWO, ""),
        ('RunPodSandbox for name:\\"web-0\\" uid:\\"x\\" namespace:\\"default\\" attempt:1', ONE, ""),
        ('"SyncLoop ADD" source="api" pods=["default/web-0"]', ONE, ""),
        ('"Container started" pod="default/etcd-node" podUID="x"', TWO, ""),
        (f'"x" pod="default/other" podUID="{"f" * 32}"', TWO, ""),
        (f"/var/lib/kubelet/pods/{UID}/volumes", ONE, ""),
        (f'"x" containerID="containerd://{MAIN}"', ONE, MAIN),
        (f"ListPodSandbox returns {ONE} {TWO}", "", ""),
        (f"containers {MAIN} and of another pod {TWO}", "", ""),
        (f"image sha256:{MAIN} pulled", "", ""),
        (f"{MAIN}0 {MAIN[:13]} default/web-0", "", ""),
    ],
)  # fmt: skip
def test_a_line_is_of_the_pod_that_it_names(told: Node, message: str, pod: str, container: str) -> None:
    assert placed(told, message) == (pod, container)


def test_of_two_pods_of_one_name_the_newer_one_is_meant(told: Node) -> None:
    config = {"metadata": {"name": "web-0", "namespace": "default", "uid": "new", "attempt": 1}}
    assert placed(told, 'x pod="default/web-0"') == (ONE, "")
    told.ask("again", "RunPodSandbox", config=config)
    told.answer("again", pod_sandbox_id=EXEC)
    assert placed(told, 'x pod="default/web-0"') == (EXEC, "")


def test_a_pod_is_named_before_its_id_is_known_and_the_line_has_the_id_then(node: Node) -> None:
    config = {"metadata": {"name": "web-0", "namespace": "default", "uid": UID}}
    node.ask("run", "RunPodSandbox", config=config)
    early = line('x pod="default/web-0"')
    node.correlator.update(early)
    node.answer("run", pod_sandbox_id=ONE)
    assert early.pod is not None
    assert early.pod.id == ONE


def test_what_names_nothing_is_told() -> None:
    assert not mentions(b"containerd successfully booted in 0.5s").any()
    assert not mentions(b"sha256:" + MAIN.encode()).any()
