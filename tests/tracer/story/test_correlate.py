"""Whom a call is about and which call caused it: told by hand, so that the truth is known."""

from __future__ import annotations

import pytest

from tests.tracer.made import MS, RUNTIME
from tests.tracer.story.node import AGENT, IMAGES, Node
from tracer.story.identity import KEPT, Reader
from tracer.story.place import Place

POD, OTHER = "1" * 64, "2" * 64
MAIN, SIDE = "a" * 64, "b" * 64
EXEC = "e" * 64


def run_pod(node: Node, name: str, sandbox: str) -> None:
    node.ask(f"run {name}", "RunPodSandbox", config={"metadata": metadata(name)}, runtimeHandler="runc")
    node.answer(f"run {name}", podSandboxId=sandbox)


def create(node: Node, sandbox: str, container: str, name: str) -> None:
    config = {"metadata": {"name": name, "attempt": 2}, "image": {"image": "busybox:1"}}
    node.ask(f"create {name}", "CreateContainer", podSandboxId=sandbox, config=config)
    node.answer(f"create {name}", containerId=container)


def metadata(name: str) -> dict[str, object]:
    return {"name": name, "namespace": "shop", "uid": f"uid-{name}", "attempt": 1}


def about(place: Place) -> tuple[str, str, str]:
    """Sandbox and container, each by its first digit, and the name."""
    pod, container = place.pod, place.container
    return (pod.id[:1] if pod else "", container.id[:1] if container else "", place.label())


def parent(place: Place) -> tuple[str, str] | None:
    return None if place.parent is None else (place.parent.method, place.how)


def test_a_sandboxs_id_comes_with_the_answer_and_names_the_calls_before_it(node: Node) -> None:
    run = node.ask("run", "RunPodSandbox", config={"metadata": metadata("web")})
    assert about(run) == ("", "", "web")
    made = node.do("create", "Create", id=POD)
    assert about(made) == ("", "1", "")
    node.answer("run", podSandboxId=POD)
    assert about(run) == ("1", "", "web")
    assert about(made) == ("1", "1", "web")
    pod = made.pod
    assert pod is not None
    assert (pod.namespace, pod.name, pod.uid, pod.attempt) == ("shop", "web", "uid-web", 1)


def test_a_container_is_named_by_its_creation(node: Node) -> None:
    run_pod(node, "web", POD)
    create(node, POD, MAIN, "main")
    start = node.ask("start", "StartContainer", containerId=MAIN)
    assert about(start) == ("1", "a", "web/main")
    assert start.container is not None
    assert (start.container.attempt, start.container.image) == (2, "busybox:1")


def test_of_pods_that_start_together_each_task_call_finds_its_own_once_the_ids_are_told(node: Node) -> None:
    first = node.ask("first", "RunPodSandbox", config={"metadata": metadata("web")})
    second = node.ask("second", "RunPodSandbox", config={"metadata": metadata("db")})
    made = node.do("create", "Create", id=POD, socket="/s/1")
    other = node.do("other", "Create", id=OTHER, socket="/s/2")
    assert made.parent is other.parent is None  # both fit both
    node.answer("second", podSandboxId=OTHER)
    assert (other.parent, other.how) == (second, "identity")
    assert (made.parent, made.how) == (first, "time")  # who is left
    node.answer("first", podSandboxId=POD)
    assert (made.parent, made.how) == (first, "identity")
    assert about(made) == ("1", "1", "web")
    assert about(other) == ("2", "2", "db")
    assert first.children == ((made.number, "identity"),)


def test_a_guess_by_time_is_taken_back_when_the_id_says_otherwise(node: Node) -> None:
    run = node.ask("run", "RunPodSandbox", config={"metadata": metadata("web")})
    made = node.do("create", "Create", id=OTHER)  # of somebody whose CRI call is not in the capture
    assert parent(made) == ("RunPodSandbox", "time")
    node.answer("run", podSandboxId=POD)
    assert parent(made) is None
    assert run.children == ()


def test_a_sandbox_that_was_there_before_is_not_a_new_pods(node: Node) -> None:
    node.do("old", "State", id=OTHER)
    node.ask("run", "RunPodSandbox", config={"metadata": metadata("web")})
    assert parent(node.do("delete", "Delete", id=OTHER)) is None


def test_a_failed_sandbox_is_told_by_the_id_in_its_error(node: Node) -> None:
    node.ask("web", "RunPodSandbox", config={"metadata": metadata("web")})
    node.ask("db", "RunPodSandbox", config={"metadata": metadata("db")})
    made = node.ask("create", "Create", id=POD)
    node.answer("create", 2, "runc create failed")
    node.answer("web", 2, f'failed to start sandbox "{POD}": runc create failed')
    assert parent(made) == ("RunPodSandbox", "identity")
    assert about(made) == ("1", "1", "web")
    (failure,) = made.pod.failures  # type: ignore[union-attr] # just seen
    assert (failure.method, failure.innermost.method) == ("RunPodSandbox", "Create")  # type: ignore[union-attr]


def test_an_execs_calls_are_its_own_requests_and_its_events_follow(node: Node) -> None:
    run_pod(node, "web", POD)
    create(node, POD, MAIN, "main")
    sync = node.ask("sync", "ExecSync", containerId=MAIN, cmd=["true"])
    added = node.do("exec", "Exec", id=MAIN, execId=EXEC)
    begun = node.event("added", "/tasks/exec-added", containerId=MAIN, execId=EXEC)
    started = node.do("start", "Start", id=MAIN, execId=EXEC)
    ended = node.event("exit", "/tasks/exit", containerId=MAIN, id=EXEC)
    assert [each.exec_id for each in (added, begun, started, ended)] == [EXEC] * 4
    assert {each.parent for each in (added, started, ended)} == {sync}
    assert parent(begun) == ("Exec", "identity")
    assert about(ended) == ("1", "a", "web/main")


def test_of_two_execs_in_one_container_none_is_claimed(node: Node) -> None:
    node.ask("one", "ExecSync", containerId=MAIN)
    node.ask("two", "ExecSync", containerId=MAIN)
    assert parent(node.do("exec", "Exec", id=MAIN, execId=EXEC)) is None


def test_an_exec_stays_with_the_request_that_made_it(node: Node) -> None:
    one = node.ask("one", "ExecSync", containerId=MAIN)
    node.do("exec", "Exec", id=MAIN, execId=EXEC)
    node.ask("two", "ExecSync", containerId=MAIN)
    assert node.do("start", "Start", id=MAIN, execId=EXEC).parent is one


def test_a_start_without_an_exec_is_no_execs_and_a_method_is_only_what_causes_it(node: Node) -> None:
    node.ask("sync", "ExecSync", containerId=MAIN)
    assert parent(node.do("start", "Start", id=MAIN)) is None
    node.ask("status", "ContainerStatus", containerId=MAIN)
    assert parent(node.do("kill", "Kill", id=MAIN)) is None


def test_what_comes_after_an_exit_is_the_exits_unless_a_stop_waits_for_it(node: Node) -> None:
    crashed = node.event("exit", "/tasks/exit", containerId=MAIN, id=MAIN, exitStatus=3)
    delete = node.do("delete", "Delete", id=MAIN)
    assert (delete.parent, delete.how) == (crashed, "identity")
    node.event("other", "/tasks/exit", containerId=SIDE, id=SIDE)
    stop = node.ask("stop", "StopContainer", containerId=SIDE)
    assert node.do("delete side", "Delete", id=SIDE).parent is stop


def test_after_an_exit_in_the_midst_of_a_start_both_fit_and_none_is_claimed(node: Node) -> None:
    node.ask("start", "StartContainer", containerId=MAIN)
    node.event("exit", "/tasks/exit", containerId=MAIN, id=MAIN)
    assert parent(node.do("delete", "Delete", id=MAIN)) is None


def test_a_list_is_a_parent_by_time_and_not_beside_another(node: Node) -> None:
    node.ask("list", "ListContainerStats")
    assert parent(node.do("stats", "Stats", id=MAIN)) == ("ListContainerStats", "time")
    node.ask("one", "ContainerStats", containerId=SIDE)
    assert parent(node.do("more", "Stats", id=SIDE)) is None


def test_a_stop_of_a_pod_reaches_its_containers(node: Node) -> None:
    run_pod(node, "web", POD)
    create(node, POD, MAIN, "main")
    stop = node.ask("stop", "StopPodSandbox", podSandboxId=POD)
    assert node.do("kill", "Kill", id=MAIN).parent is stop
    assert node.do("kill other", "Kill", id=SIDE, socket="/s/2").parent is None


def test_the_containers_on_a_shims_socket_are_of_one_pod(node: Node) -> None:
    state = node.do("state", "State", id=MAIN)
    node.do("sandbox", "State", id=POD)
    assert about(state) == ("", "a", "")
    node.ask("status", "PodSandboxStatus", podSandboxId=POD)
    node.answer("status", status={"id": POD, "metadata": metadata("web")})
    assert about(state) == ("1", "a", "web")


def test_lists_name_what_was_there_before_the_capture(node: Node) -> None:
    state = node.do("state", "State", id=MAIN)
    node.ask("list", "ListContainers")
    node.answer("list", containers=[{"id": MAIN, "podSandboxId": POD, "metadata": {"name": "main"}}])
    node.ask("pods", "ListPodSandbox")
    node.answer("pods", items=[{"id": POD, "metadata": metadata("web"), "state": 1}])
    assert about(state) == ("1", "a", "web/main")
    assert state.pod is not None
    assert state.pod.state == "stopped"


def test_creating_a_container_asks_for_the_sandbox_alone(node: Node) -> None:
    run_pod(node, "web", POD)
    node.do("main", "State", id=MAIN)
    create_main = node.ask("create", "CreateContainer", podSandboxId=POD)
    assert node.do("sandbox", "State", id=POD).parent is create_main
    assert parent(node.do("other", "State", id=MAIN)) is None


@pytest.mark.parametrize(
    "annotations",
    [
        {"io.kubernetes.cri.sandbox-id": POD, "io.kubernetes.cri.sandbox-name": "web"},
        {"io.kubernetes.cri-o.SandboxID": POD, "io.kubernetes.pod.name": "web"},
    ],
)
def test_a_specifications_annotations_say_whose_a_container_is(node: Node, annotations: dict[str, str]) -> None:
    annotations |= {"io.kubernetes.cri.container-name": "main", "io.kubernetes.container.name": "main"}
    place = node.do("inside", "CreateContainer", service=AGENT, containerId=MAIN, OCI={"Annotations": annotations})
    assert about(place) == ("1", "a", "web/main")


def test_an_agents_calls_are_the_shims(node: Node) -> None:
    vm = f"/run/vc/vm/{POD}/kata.hvsock"
    run = node.ask("run", "RunPodSandbox", config={"metadata": metadata("web")})
    made = node.ask("create", "Create", id=POD)
    check = node.do("routes", "ListRoutes", service=AGENT, socket=vm)
    guest = node.do("guest", "CreateSandbox", service=AGENT, socket=vm, sandboxId=POD)
    annotations = {"io.kubernetes.cri.sandbox-id": POD, "io.kubernetes.cri.sandbox-name": "web"}
    inside = node.ask(
        "inside", "CreateContainer", service=AGENT, socket=vm, containerId=POD, OCI={"Annotations": annotations}
    )
    assert [each.parent for each in (check, guest, inside)] == [made] * 3
    assert made.parent is run
    assert about(inside) == ("1", "1", "web")  # before RunPodSandbox has answered
    node.answer("inside", 13, "no such device")
    node.answer("create", 2, "failed to create: no such device")
    node.answer("run", 2, f'failed to start sandbox "{POD}": failed to create: no such device')
    assert run.pod is inside.pod
    (failure,) = run.pod.failures  # type: ignore[union-attr] # just seen
    chain = [failure, failure.innermost, failure.innermost.innermost]  # type: ignore[union-attr]
    assert [(each.hop, each.method) for each in chain if each] == [
        ("cri", "RunPodSandbox"), ("task", "Create"), ("agent", "CreateContainer"),
    ]  # fmt: skip


def test_a_trace_says_more_than_an_identity(node: Node) -> None:
    one = node.ask("one", "ExecSync", containerId=MAIN, trace="a")
    node.ask("two", "ExecSync", containerId=MAIN, trace="c")
    place = node.do("exec", "Exec", id=MAIN, execId=EXEC, trace="a")
    assert (place.parent, place.how) == (one, "trace")
    node.answer("two")
    assert parent(node.do("other", "Exec", id=MAIN, execId="f", trace="d")) is None
    assert parent(node.do("without", "Exec", id=MAIN, execId="g")) == ("ExecSync", "identity")


def test_a_child_that_may_wait_longer_is_told(node: Node) -> None:
    node.ask("sync", "ExecSync", containerId=MAIN, timeout_ms=10_000)
    assert node.do("exec", "Exec", id=MAIN, execId=EXEC, timeout_ms=10_050).outlives() is False
    assert node.do("start", "Start", id=MAIN, execId=EXEC, timeout_ms=20_000).outlives() is True
    assert node.do("kill", "Kill", id=MAIN, execId=EXEC).outlives() is True  # waits for ever
    assert node.do("wait", "Wait", id=MAIN, execId=EXEC).outlives() is False  # is meant to


@pytest.mark.parametrize(("code", "state"), [(0, "running"), (2, "failed")])
def test_states_are_as_the_calls_tell(node: Node, code: int, state: str) -> None:
    run_pod(node, "web", POD)
    create(node, POD, MAIN, "main")
    container = node.correlator.containers[MAIN]
    assert container.state == "created"
    node.ask("start", "StartContainer", containerId=MAIN)
    node.answer("start", code, "no such file")
    assert container.state == state
    if code:
        assert [each.message for each in container.failures] == ["no such file"]
        return
    node.event("exit", "/tasks/exit", containerId=MAIN, id=MAIN, exitStatus=3)
    assert (container.state, container.exit_code) == ("exited", 3)
    node.do("remove", "RemoveContainer", containerId=MAIN)
    assert container.state == "removed"
    assert container.exit_code == 3


def test_what_is_kept_is_bounded_by_what_is_open(node: Node) -> None:
    run_pod(node, "web", POD)
    create(node, POD, MAIN, "main")
    for number in range(300):
        node.ask(f"sync {number}", "ExecSync", containerId=MAIN)
        node.do(f"exec {number}", "Exec", id=MAIN, execId=f"e{number}")
        node.answer(f"sync {number}")
        node.do(f"list {number}", "ListContainerStats")
    container = node.correlator.containers[MAIN]
    assert max(len(container.told), len(container.execs)) <= 64
    assert container.causing == []
    assert container.pod is not None
    assert container.pod.causing == []
    assert len(node.correlator.pods) == len(node.correlator.containers) == 1


def test_with_a_pod_all_that_was_in_it_is_removed(node: Node) -> None:
    run_pod(node, "web", POD)
    create(node, POD, MAIN, "main")
    node.do("remove", "RemovePodSandbox", podSandboxId=POD)
    assert node.correlator.containers[MAIN].state == "removed"


def test_a_pull_that_names_a_pod_is_the_pods(node: Node) -> None:
    run_pod(node, "web", POD)
    node.ask("pull", "PullImage", IMAGES, image={"image": "nginx"}, sandboxConfig={"metadata": metadata("web")}, ms=100)
    node.answer("pull", ms=350)
    node.ask("other", "PullImage", IMAGES, image={"image": "nginx"}, sandboxConfig={"metadata": metadata("db")})
    node.answer("other")
    (pod,) = node.correlator.pods
    assert pod.pulled_ns == 250 * MS


def test_what_was_read_of_messages_is_kept_up_to_a_limit(node: Node) -> None:
    reader = Reader(node.registry)
    for number in range(2 * KEPT):
        said = reader.read(RUNTIME, "StartContainer", 0, b"\x0a\x04%04d" % number)
        assert said == {"container": f"{number:04d}"}
    asked, _ = reader._sides[RUNTIME, "StartContainer"]
    assert asked is not None
    assert len(asked.known) <= KEPT
    assert reader.read(RUNTIME, "StartContainer", 0, b"\x0a\xff") == {}  # does not parse
    assert reader.read(RUNTIME, "StartContainer", 0, b"\x0a\x01\xff") == {"container": r"\xff"}
    assert reader.read(RUNTIME, "Unheard", 0, b"\x0a\x01a") == reader.read("acme.v1.Thing", "Do", 0, b"") == {}


def test_the_end_of_an_agents_output_is_no_failure(node: Node) -> None:
    """Its reader showed as failed."""
    ended = node.ask("ended", "ReadStdout", AGENT, socket="/run/vc/vm/x/kata.hvsock", containerId=POD)
    failed = node.ask("failed", "ReadStdout", AGENT, socket="/run/vc/vm/x/kata.hvsock", containerId=POD)
    node.answer("ended", 2, "eof")
    node.answer("failed", 2, "no such process")
    assert [ended.failed(), failed.failed()] == [False, True]
