"""What each method is known to cause on the hop below: the table that parents are found by.

A child is named by its method, with `/exec` behind it where it is about an exec. How an identity has to fit:

    container  the child is about the parent's container (an agent's call without one: about its pod)
    sandbox    the child is about the sandbox itself, the container that has the pod's id
    pod        the child is about anything in the parent's pod
    new        the parent's pod has no id before its answer: one that was not there when the parent began
    all        the parent asks for every pod or container, so identity tells nothing
"""

from __future__ import annotations

_AFTER = "Connect State Kill Wait Delete Shutdown"
"""What containerd calls when a container ends: of itself, to stop it, or as its start failed."""

_CRI = {
    "RunPodSandbox": ("new", f"Create Start {_AFTER}"),
    "CreateContainer": ("sandbox", "State Connect"),
    "StartContainer": ("container", f"Create Start {_AFTER}"),
    "ExecSync": (
        "container",
        "State Connect Exec/exec State/exec Start/exec Wait/exec Kill/exec Delete/exec CloseIO/exec",
    ),
    "StopContainer": ("container", f"{_AFTER} Resume"),
    "RemoveContainer": ("container", _AFTER),
    "StopPodSandbox": ("pod", _AFTER),
    "RemovePodSandbox": ("pod", _AFTER),
    "PodSandboxStatus": ("sandbox", "State Connect"),
    "UpdateContainerResources": ("container", "State Update"),
    "ContainerStats": ("container", "State Stats Pids"),
    "PodSandboxStats": ("pod", "State Stats Pids"),
    "ListContainerStats": ("all", "Stats"),
    "ListPodSandboxStats": ("all", "State Stats Pids"),
    "ListPodSandboxMetrics": ("all", "State Stats Pids"),
    "CheckpointContainer": ("container", "State Checkpoint Pause Resume"),
}
_CRI_NRI = {
    "RunPodSandbox": ("new", "RunPodSandbox StateChange"),
    "StopPodSandbox": ("pod", "StopPodSandbox StopContainer StateChange"),
    "RemovePodSandbox": ("pod", "RemovePodSandbox RemoveContainer StateChange"),
    "CreateContainer": ("pod", "CreateContainer PostCreateContainer StateChange"),
    "StartContainer": ("container", "StartContainer PostStartContainer StateChange"),
    "StopContainer": ("container", "StopContainer StateChange"),
    "RemoveContainer": ("container", "RemoveContainer StateChange"),
    "UpdateContainerResources": ("container", "UpdateContainer PostUpdateContainer StateChange"),
}
_CRI_SANDBOX = {
    "RunPodSandbox": (
        "new",
        "CreateSandbox StartSandbox Platform WaitSandbox SandboxStatus StopSandbox ShutdownSandbox",
    ),
    "PodSandboxStatus": ("sandbox", "SandboxStatus"),
    "StopPodSandbox": ("sandbox", "StopSandbox SandboxStatus WaitSandbox ShutdownSandbox"),
    "RemovePodSandbox": ("sandbox", "StopSandbox SandboxStatus ShutdownSandbox"),
}
_TASKS = {
    "Create": ("container", "Create Connect State"),
    "Start": ("container", "Start State Start/exec State/exec"),
    "Delete": ("container", "Delete Connect State Shutdown Kill"),
    "DeleteProcess": ("container", "Delete/exec State/exec"),
    "Get": ("container", "State State/exec"),
    "Kill": ("container", "Kill Kill/exec"),
    "Exec": ("container", "Exec/exec State/exec"),
    "ResizePty": ("container", "ResizePty ResizePty/exec"),
    "CloseIO": ("container", "CloseIO CloseIO/exec"),
    "Pause": ("container", "Pause"),
    "Resume": ("container", "Resume"),
    "ListPids": ("container", "Pids"),
    "Checkpoint": ("container", "Checkpoint Pause Resume"),
    "Update": ("container", "Update"),
    "Metrics": ("all", "Stats"),
    "Wait": ("container", "Wait Wait/exec"),
}
_AGENT = {
    "Create": (
        "container",
        "Check Version CreateSandbox CreateContainer UpdateInterface UpdateRoutes ListInterfaces ListRoutes "
        "AddARPNeighbors GetGuestDetails SetGuestDateTime CopyFile SetPolicy OnlineCPUMem GetIPTables SetIPTables "
        "MemHotplugByProbe AddSwap ReseedRandomDev AddSwapPath",
    ),
    "Start": (
        "container",
        "StartContainer WaitProcess ReadStdout ReadStderr "
        "ExecProcess/exec WaitProcess/exec ReadStdout/exec ReadStderr/exec",
    ),
    "Kill": ("container", "SignalProcess SignalProcess/exec"),
    "Delete": ("container", "RemoveContainer DestroySandbox SignalProcess/exec"),
    "Shutdown": ("container", "DestroySandbox"),
    "Stats": ("container", "StatsContainer"),
    "Update": ("container", "UpdateContainer OnlineCPUMem MemHotplugByProbe GetGuestDetails"),
    "Pause": ("container", "PauseContainer"),
    "Resume": ("container", "ResumeContainer"),
    "ResizePty": ("container", "TtyWinResize TtyWinResize/exec"),
    "CloseIO": ("container", "CloseStdin CloseStdin/exec"),
}

EVENT_OF = {
    "/tasks/create": "Create",
    "/tasks/start": "Start",
    "/tasks/exec-added": "Exec",
    "/tasks/exec-started": "Start",
    "/tasks/delete": "Delete",
    "/tasks/paused": "Pause",
    "/tasks/resumed": "Resume",
    "/tasks/checkpointed": "Checkpoint",
}
"""The Task call that an event tells the effect of; an exit has a cause of its own more often than not."""

AFTER_EXIT = frozenset(_AFTER.split())
ENDS = frozenset({"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"})
"""CRI calls that wait for what containerd does once the container has ended."""

AGENTS = ("grpc.AgentService", "grpc.Health")


def _table() -> dict[str, dict[str, str]]:
    """By child (`service/method`): parent (`service/method`) → how its identity has to fit."""
    cri = ("runtime.v1.RuntimeService", "runtime.v1alpha2.RuntimeService")
    task = ("containerd.task.v2.Task", "containerd.task.v3.Task")
    parts = (
        (cri, _CRI, task),
        (cri, _CRI_SANDBOX, ("containerd.runtime.sandbox.v1.Sandbox",)),
        (cri, _CRI_NRI, ("nri.pkg.api.v1alpha1.Plugin",)),
        (("containerd.services.tasks.v1.Tasks",), _TASKS, task),
        (task, _AGENT, AGENTS),
    )
    table: dict[str, dict[str, str]] = {}
    for uppers, causes, lowers in parts:
        for upper in uppers:
            for parent, (fit, children) in causes.items():
                for lower in lowers:
                    for child in children.split():
                        table.setdefault(f"{lower}/{child}", {})[f"{upper}/{parent}"] = fit
    return table


PARENTS = _table()
CAUSING = frozenset(parent for parents in PARENTS.values() for parent in parents)
"""Every method that causes another."""
