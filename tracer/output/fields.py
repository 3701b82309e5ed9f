"""The table of what matters: for each method the fields that its line shows, and where a pod's or container's id is.

One entry reads `request items → response items`; an item is `[label=]path[/path][:form]`, where a path goes through
submessages by dots. Fields at their default are left out, but for enums and the forms `count`, `always` and `exit`:

    id       the first 13 characters           bytes    how many bytes            count    how many
    digest   algorithm and 12 digits           words    a command line            always   a number, zero too
    signal   SIGTERM for 15                    seconds  a time-out                exit     `exit 137 (SIGKILL)`
    exec     left out if it is the container's own id         set      which fields of a message are set
    quantity  `48 MiB`                         why      `137 (SIGKILL)`
    args     the command line in an Any of a Process of the runtime specification
    elsewhere  a URL, with the remark that the bytes of the stream go there and not through CRI
"""

from __future__ import annotations

_TASK = {
    "State": "exec=exec_id:id → status pid exit_status:why",
    "Create": "runtime=options.type_url → pid",
    "Start": "exec=exec_id:id → pid",
    "Delete": "exec=exec_id:id → pid exit_status:exit",
    "Pids": "→ processes=processes:count",
    "Pause": "",
    "Resume": "",
    "Checkpoint": "path",
    "Kill": "exec=exec_id:id signal:signal all",
    "Exec": "exec=exec_id:id spec:args terminal",
    "ResizePty": "exec=exec_id:id width:always height:always",
    "CloseIO": "exec=exec_id:id stdin",
    "Update": "resources=resources.type_url",
    "Wait": "exec=exec_id:id → exit_status:exit",
    "Stats": "→ stats=stats.type_url",
    "Connect": "→ shim_pid task_pid version",
    "Shutdown": "now",
}

_CRI = {
    "Version": "→ runtime_name runtime_version",
    "RunPodSandbox": "config.metadata.namespace/config.metadata.name runtime=runtime_handler → pod_sandbox_id:id",
    "StopPodSandbox": "",
    "RemovePodSandbox": "",
    "PodSandboxStatus": "→ status.metadata.namespace/status.metadata.name status.state",
    "ListPodSandbox": "→ pods=items:count",
    "StreamPodSandboxes": "",
    "CreateContainer": "config.metadata.name image=config.image.image → container_id:id",
    "StartContainer": "",
    "StopContainer": "timeout:seconds",
    "RemoveContainer": "",
    "ListContainers": "→ containers=containers:count",
    "StreamContainers": "",
    "ContainerStatus": "→ status.metadata.name status.state exit_code=status.exit_code:why status.reason",
    "UpdateContainerResources": "cpu_quota=linux.cpu_quota cpu_shares=linux.cpu_shares "
    "memory=linux.memory_limit_in_bytes:quantity",
    "ReopenContainerLog": "",
    "ExecSync": "cmd:words timeout:seconds → exit_code:exit stdout=stdout:bytes stderr=stderr:bytes",
    "Exec": "cmd:words tty → url:elsewhere",
    "Attach": "tty → url:elsewhere",
    "PortForward": "ports=port:words → url:elsewhere",
    "ContainerStats": "→ stats.attributes.metadata.name",
    "ListContainerStats": "→ stats=stats:count",
    "StreamContainerStats": "",
    "PodSandboxStats": "→ stats.attributes.metadata.namespace/stats.attributes.metadata.name",
    "ListPodSandboxStats": "→ stats=stats:count",
    "StreamPodSandboxStats": "",
    "UpdateRuntimeConfig": "pod_cidr=runtime_config.network_config.pod_cidr",
    "Status": "→ conditions=status.conditions:count",
    "CheckpointContainer": "location timeout:seconds",
    "CheckpointPod": "output_path containers=container_ids:count",
    "RestorePod": "checkpoint_path runtime=runtime_handler → pod_sandbox_id:id",
    "GetContainerEvents": "",
    "ListMetricDescriptors": "→ descriptors=descriptors:count",
    "ListPodSandboxMetrics": "→ pods=pod_metrics:count",
    "StreamPodSandboxMetrics": "",
    "RuntimeConfig": "→ cgroup_driver=linux.cgroup_driver",
    "UpdatePodSandboxResources": "",
    "ListImages": "image=filter.image.image → images=images:count",
    "StreamImages": "",
    "ImageStatus": "image.image → image.id:digest",
    "PullImage": "image.image → image_ref",
    "RemoveImage": "image.image",
    "ImageFsInfo": "→ filesystems=image_filesystems:count",
}

_SANDBOX = {
    "CreateSandbox": "bundle=bundle_path netns=netns_path",
    "StartSandbox": "→ pid",
    "Platform": "→ platform.os/platform.architecture",
    "StopSandbox": "timeout=timeout_secs:seconds",
    "WaitSandbox": "→ exit_status:exit",
    "SandboxStatus": "→ pid state",
    "PingSandbox": "",
    "ShutdownSandbox": "",
    "SandboxMetrics": "",
}

_AGENT = {
    "CreateSandbox": "hostname storages=storages:count",
    "DestroySandbox": "",
    "CreateContainer": "OCI.Process.Args:words storages=storages:count",
    "StartContainer": "",
    "RemoveContainer": "timeout:seconds",
    "ExecProcess": "exec=exec_id:exec process.Args:words",
    "SignalProcess": "exec=exec_id:exec signal:signal",
    "WaitProcess": "exec=exec_id:exec → status:exit",
    "UpdateContainer": "resources=resources:set",
    "UpdateEphemeralMounts": "storages=storages:count",
    "StatsContainer": "→ memory=cgroup_stats.memory_stats.usage.usage:quantity pids=cgroup_stats.pids_stats.current",
    "PauseContainer": "",
    "ResumeContainer": "",
    "RemoveStaleVirtiofsShareMounts": "",
    "GetDiagnosticData": "log_type → data=data:bytes",
    "WriteStdin": "exec=exec_id:exec data=data:bytes → len",
    "ReadStdout": "exec=exec_id:exec len → data=data:bytes",
    "ReadStderr": "exec=exec_id:exec len → data=data:bytes",
    "CloseStdin": "exec=exec_id:exec",
    "TtyWinResize": "exec=exec_id:exec row:always column:always",
    "UpdateInterface": "interface.name mac=interface.hwAddr",
    "UpdateRoutes": "routes=routes.Routes:count → routes=Routes:count",
    "ListInterfaces": "→ interfaces=Interfaces:count",
    "ListRoutes": "→ routes=Routes:count",
    "AddARPNeighbors": "neighbors=neighbors.ARPNeighbors:count",
    "GetIPTables": "is_ipv6 → data=data:bytes",
    "SetIPTables": "is_ipv6 data=data:bytes",
    "GetMetrics": "→ metrics=metrics:bytes",
    "MemAgentMemcgSet": "",
    "MemAgentCompactSet": "",
    "OnlineCPUMem": "wait nb_cpus cpu_only",
    "ReseedRandomDev": "data=data:bytes",
    "GetGuestDetails": "→ version=agent_details.version block=mem_block_size_bytes:quantity",
    "MemHotplugByProbe": "addresses=memHotplugProbeAddr:count",
    "SetGuestDateTime": "Sec Usec",
    "CopyFile": "path file_size offset data=data:bytes",
    "GetOOMEvent": "",
    "AddSwap": "PCIPath:words",
    "AddSwapPath": "path",
    "GetVolumeStats": "volume_guest_path → usage=usage:count",
    "ResizeVolume": "volume_guest_path size",
    "SetPolicy": "policy=policy:bytes",
    "ListProcesses": "format",
    "StartTracing": "",
    "StopTracing": "",
}

_POD = "pod.namespace/pod.name"
_CONTAINER = f"{_POD} container.name"

_NRI = {
    "Configure": "runtime_name/runtime_version → events",
    "Synchronize": "pods=pods:count containers=containers:count more → updates=update:count more",
    "Shutdown": "",
    "RunPodSandbox": _POD,
    "UpdatePodSandbox": f"{_POD} resources=linux_resources:set",
    "PostUpdatePodSandbox": _POD,
    "StopPodSandbox": _POD,
    "RemovePodSandbox": _POD,
    "CreateContainer": f"{_CONTAINER} → adjust=adjust:set updates=update:count",
    "PostCreateContainer": _CONTAINER,
    "StartContainer": _CONTAINER,
    "PostStartContainer": _CONTAINER,
    "UpdateContainer": f"{_CONTAINER} resources=linux_resources:set → updates=update:count",
    "PostUpdateContainer": _CONTAINER,
    "StopContainer": f"{_CONTAINER} → updates=update:count",
    "RemoveContainer": _CONTAINER,
    "StateChange": f"event {_CONTAINER}",
    "ValidateContainerAdjustment": f"{_CONTAINER} adjust=adjust:set → reject reason",
}

FIELDS: dict[str, dict[str, str]] = {
    "runtime.v1.RuntimeService": _CRI,
    "runtime.v1.ImageService": _CRI,
    "runtime.v1alpha2.RuntimeService": _CRI,
    "runtime.v1alpha2.ImageService": _CRI,
    "containerd.task.v2.Task": _TASK,
    "containerd.task.v3.Task": _TASK,
    "containerd.runtime.sandbox.v1.Sandbox": _SANDBOX,
    "containerd.services.events.ttrpc.v1.Events": {"Forward": ""},
    "containerd.services.events.v1.Events": {
        "Publish": "topic",
        "Forward": "",
        "Subscribe": "filters:words",
    },
    "containerd.services.containers.v1.Containers": {
        "Get": "→ image=container.image runtime=container.runtime.name",
        "List": "filters:words → containers=containers:count",
        "ListStream": "filters:words",
        "Create": "image=container.image runtime=container.runtime.name",
        "Update": "fields=update_mask.paths:words",
        "Delete": "",
    },
    "containerd.services.content.v1.Content": {
        "Info": "digest:digest → size=info.size",
        "Update": "info.digest:digest fields=update_mask.paths:words",
        "List": "filters:words",
        "Delete": "digest:digest",
        "Read": "digest:digest offset size",
        "Status": "ref → offset=status.offset total=status.total",
        "ListStatuses": "filters:words → statuses=statuses:count",
        "Write": "ref total expected:digest",
        "Abort": "ref",
    },
    "containerd.services.diff.v1.Diff": {
        "Apply": "diff.digest:digest type=diff.media_type → applied.digest:digest",
        "Diff": "type=media_type ref → diff.digest:digest",
    },
    "containerd.services.images.v1.Images": {
        "Get": "name → image.target.digest:digest",
        "List": "filters:words → images=images:count",
        "Create": "image.name image.target.digest:digest",
        "Update": "image.name fields=update_mask.paths:words",
        "Delete": "name sync",
    },
    "containerd.services.introspection.v1.Introspection": {
        "Plugins": "filters:words → plugins=plugins:count",
        "Server": "→ pid uuid",
        "PluginInfo": "type/id",
    },
    "containerd.services.leases.v1.Leases": {
        "Create": "id → lease.id",
        "Delete": "id sync",
        "List": "filters:words → leases=leases:count",
        "AddResource": "id resource.type/resource.id",
        "DeleteResource": "id resource.type/resource.id",
        "ListResources": "id → resources=resources:count",
    },
    "containerd.services.mounts.v1.Mounts": {
        "Activate": "name mounts=mounts:count",
        "Deactivate": "name",
        "Info": "name",
        "Update": "info.name",
        "List": "filters:words",
    },
    "containerd.services.namespaces.v1.Namespaces": {
        "Get": "name",
        "List": "filter → namespaces=namespaces:count",
        "Create": "namespace.name",
        "Update": "namespace.name",
        "Delete": "name",
    },
    "containerd.services.sandbox.v1.Controller": {
        "Create": "sandboxer",
        "Start": "sandboxer → pid address",
        "Platform": "→ platform.os/platform.architecture",
        "Stop": "timeout=timeout_secs:seconds",
        "Wait": "→ exit_status:exit",
        "Status": "→ pid state address",
        "Shutdown": "",
        "Metrics": "",
        "Update": "fields:words",
    },
    "containerd.services.sandbox.v1.Store": {
        "Create": "runtime=sandbox.runtime.name",
        "Update": "fields:words",
        "Delete": "",
        "List": "filters:words → sandboxes=list:count",
        "Get": "→ runtime=sandbox.runtime.name",
    },
    "containerd.services.snapshots.v1.Snapshots": {
        "Prepare": "key:id parent=parent:digest snapshotter → mounts=mounts:count",
        "View": "key:id parent=parent:digest snapshotter → mounts=mounts:count",
        "Mounts": "key:id snapshotter → mounts=mounts:count",
        "Commit": "name:digest key:id snapshotter",
        "Remove": "key:id snapshotter",
        "Stat": "key:id snapshotter → kind=info.kind",
        "Update": "info.name:digest snapshotter fields=update_mask.paths:words",
        "List": "snapshotter filters:words",
        "Usage": "key:id snapshotter → size inodes",
        "Cleanup": "snapshotter",
    },
    "containerd.services.streaming.v1.Streaming": {"Stream": "type_url"},
    "containerd.services.tasks.v1.Tasks": {
        "Create": "runtime=runtime_path → pid",
        "Start": "exec=exec_id:id → pid",
        "Delete": "→ pid exit_status:exit",
        "DeleteProcess": "exec=exec_id:id → pid exit_status:exit",
        "Get": "exec=exec_id:id → pid=process.pid status=process.status",
        "List": "filter → tasks=tasks:count",
        "Kill": "exec=exec_id:id signal:signal all",
        "Exec": "exec=exec_id:id spec:args terminal",
        "ResizePty": "exec=exec_id:id width:always height:always",
        "CloseIO": "exec=exec_id:id stdin",
        "Pause": "",
        "Resume": "",
        "ListPids": "→ processes=processes:count",
        "Checkpoint": "→ descriptors=descriptors:count",
        "Update": "resources=resources.type_url",
        "Metrics": "filters:words → metrics=metrics:count",
        "Wait": "exec=exec_id:id → exit_status:exit",
    },
    "containerd.services.transfer.v1.Transfer": {
        "Transfer": "source.type_url to=destination.type_url",
    },
    "containerd.services.version.v1.Version": {"Version": "→ version revision"},
    "grpc.AgentService": _AGENT,
    "grpc.Health": {"Check": "service → status", "Version": "service → agent_version"},
    "nri.pkg.api.v1alpha1.Plugin": _NRI,
    "nri.pkg.api.v1alpha1.Runtime": {
        "RegisterPlugin": "plugin_idx/plugin_name",
        "UpdateContainers": "updates=update:count evict=evict:count → failed=failed:count",
    },
    "nri.pkg.api.v1alpha1.HostFunctions": {"Log": "level msg"},
}

STREAMED: dict[str, dict[str, str]] = {
    "containerd.services.content.v1.Content": {
        "Read": "digest:digest offset size → offset:always data=data:bytes",
        "Write": "action ref offset:always data=data:bytes total expected:digest → action offset:always digest:digest",
        "List": "filters:words → contents=info:count",
    },
    "containerd.services.events.v1.Events": {"Subscribe": "filters:words → "},
    "containerd.services.snapshots.v1.Snapshots": {"List": "snapshotter filters:words → snapshots=info:count"},
    "containerd.services.containers.v1.Containers": {"ListStream": "filters:words → container.id:id"},
    "containerd.services.streaming.v1.Streaming": {"Stream": "type_url value:bytes → type_url value:bytes"},
    "runtime.v1.RuntimeService": {"GetContainerEvents": "→ container_event_type"},
}
"""The same of each message of a stream, which has a line of its own when it comes. Without an entry that says its size.
"""

EVENT_FIELDS: dict[str, str] = {
    "containerd.events.TaskCreate": "pid",
    "containerd.events.TaskStart": "pid",
    "containerd.events.TaskExit": "exec=id:exec pid exit_status:exit",
    "containerd.events.TaskDelete": "exec=id:exec pid exit_status:exit",
    "containerd.events.TaskExecAdded": "exec=exec_id:id",
    "containerd.events.TaskExecStarted": "exec=exec_id:id pid",
    "containerd.events.TaskOOM": "",
    "containerd.events.TaskPaused": "",
    "containerd.events.TaskResumed": "",
    "containerd.events.TaskCheckpointed": "checkpoint",
    "containerd.events.ContainerCreate": "id:id image",
    "containerd.events.ContainerUpdate": "id:id image",
    "containerd.events.ContainerDelete": "id:id",
    "containerd.events.SnapshotPrepare": "key:id parent:digest",
    "containerd.events.SnapshotCommit": "key:id name:digest",
    "containerd.events.SnapshotRemove": "key:id",
    "containerd.services.images.v1.ImageCreate": "name",
    "containerd.services.images.v1.ImageUpdate": "name",
    "containerd.services.images.v1.ImageDelete": "name",
    "containerd.events.ContentCreate": "digest:digest size",
    "containerd.events.ContentDelete": "digest:digest",
    "containerd.events.NamespaceCreate": "name",
    "containerd.events.NamespaceUpdate": "name",
    "containerd.events.NamespaceDelete": "name",
}
"""Events, as a shim forwards them and as containerd tells them: what a line says of them."""

EVENT_CARRIERS = frozenset({"containerd.services.events.ttrpc.v1.Events", "containerd.services.events.v1.Events"})
"""Services whose Forward carries an Envelope with an event in it."""

_CRI_IDS = ("container_id", "pod_sandbox_id", "filter.id", "filter.pod_sandbox_id")

ID_PATHS: dict[str, tuple[str, ...]] = {
    "runtime.v1.RuntimeService": _CRI_IDS,
    "runtime.v1alpha2.RuntimeService": _CRI_IDS,
    "containerd.task.v2.Task": ("id",),
    "containerd.task.v3.Task": ("id",),
    "containerd.runtime.sandbox.v1.Sandbox": ("sandbox_id",),
    "containerd.services.containers.v1.Containers": ("id", "container.id"),
    "containerd.services.sandbox.v1.Controller": ("sandbox_id",),
    "containerd.services.sandbox.v1.Store": ("sandbox_id", "sandbox.sandbox_id"),
    "containerd.services.tasks.v1.Tasks": ("container_id",),
    "grpc.AgentService": ("container_id", "sandbox_id"),
    "nri.pkg.api.v1alpha1.Plugin": ("container.id", "pod.id"),
}
"""Where the id of the pod or container is that a call is about: the first of these that its request has and fills;
else its response's, under the same names."""

EVENT_ID_PATHS = ("container_id", "sandbox_id")

EXPECTED_FAILURES: dict[str, frozenset[tuple[str, int]]] = {
    "containerd.task.v2.Task": frozenset({("Kill", 5)}),
    "containerd.task.v3.Task": frozenset({("Kill", 5)}),
}
"""(method, status) that are part of a good life: containerd ends each exec with a Kill that finds nothing."""

EXPECTED_ENDS = frozenset({("grpc.AgentService", method, "eof") for method in ("ReadStdout", "ReadStderr")})
"""Service, method and status message of what is no failure whatever the status: the agent says so that a stream has
ended."""


def is_expected(service: str, method: str, code: int, message: str) -> bool:
    """Whether a status that is not OK is one of a good life: no failure."""
    return (method, code) in EXPECTED_FAILURES.get(service, ()) or (service, method, message) in EXPECTED_ENDS
