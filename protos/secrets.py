"""What is secret: the one table of the fields, and of the names in JSON and metadata, whose values are masked.

Data alone: `dissectors.masking` masks by it, in what is shown and in captures alike. A field that no row names, of a
user's own schema for instance, goes by its name: see `BY_NAME`. Every map of text to text goes by `MAP`.
"""

from __future__ import annotations

import re
from enum import Enum


class Rule(Enum):
    """What of a field's value is masked."""

    WHOLE = "all of it"
    ENV = "what stands behind the first = of NAME=value"
    JSON = "what is secret in the JSON that it is (`SECRET_NAME`, `ENV_NAME`); nothing if it is none"
    TOKEN = "the last part of a URL's path: whoever has it may use the stream"
    PATH = "the part of a path that names a volume of Kubernetes' secrets (`SECRET_PATH`)"
    OPTIONS = "the value of name=value, in a list with commas too, where the name is a secret's"
    MAP = "the values whose key is a secret's name, and as `JSON` where they are that"
    VALUES = "the values of a map, whatever their keys"
    KEEP = "nothing, though its name sounds like it"


WHOLE, ENV, JSON, TOKEN, PATH, OPTIONS, VALUES, KEEP = (
    Rule.WHOLE, Rule.ENV, Rule.JSON, Rule.TOKEN, Rule.PATH, Rule.OPTIONS, Rule.VALUES, Rule.KEEP,
)  # fmt: skip

OTHERS = "*"
"""In a row: all other text and bytes of the message, fields that no schema has included."""

_CRI: dict[str, dict[str, Rule]] = {
    "AuthConfig": {"server_address": KEEP, OTHERS: WHOLE},
    "KeyValue": {"value": WHOLE},  # ContainerConfig.envs
    "Mount": {"host_path": PATH},
    "ExecResponse": {"url": TOKEN},
    "AttachResponse": {"url": TOKEN},
    "PortForwardResponse": {"url": TOKEN},
    "WindowsContainerSecurityContext": {"credential_spec": WHOLE},
    "WindowsSandboxSecurityContext": {"credential_spec": WHOLE},
}

SECRETS: dict[str, dict[str, Rule]] = {
    **{f"runtime.v1.{name}": row for name, row in _CRI.items()},
    **{f"runtime.v1alpha2.{name}": row for name, row in _CRI.items()},
    "containerd.types.Mount": {"source": PATH, "options": OPTIONS},
    "containerd.types.transfer.AuthResponse": {"secret": WHOLE},
    "containerd.types.transfer.RegistryResolver": {"auth_stream": KEEP},  # the id of a stream
    "containerd.types.transfer.AuthRequest": {"wwwauthenticate": KEEP},  # a registry's question
    "containerd.types.transfer.Data": {"data": JSON},
    "containerd.services.content.v1.ReadContentResponse": {"data": JSON},  # an image's configuration has Env
    "containerd.services.content.v1.WriteContentRequest": {"data": JSON},
    "grpc.Process": {"Env": ENV},
    "grpc.Hook": {"Env": ENV},
    "grpc.Mount": {"source": PATH, "options": OPTIONS},
    "grpc.Storage": {"source": PATH, "options": OPTIONS, "driver_options": OPTIONS},
    "grpc.CopyFileRequest": {"data": WHOLE},  # the files of secrets and tokens, among others
    "grpc.SetPolicyRequest": {"policy": WHOLE},  # has the environment that it allows
    "grpc.ReseedRandomDevRequest": {"data": WHOLE},
    "cache.GrpcVMConfig": {"Data": JSON},
    "api.GetResourceResponse": {"Resource": WHOLE},
    "api.UnsealSecretInput": {"secret": WHOLE},
    "api.UnsealSecretOutput": {"plaintext": WHOLE},
    "api.SecureMountRequest": {"options": VALUES},
    "nri.pkg.api.v1alpha1.Container": {"env": ENV},
    "nri.pkg.api.v1alpha1.Hook": {"env": ENV},
    "nri.pkg.api.v1alpha1.KeyValue": {"value": WHOLE},  # ContainerAdjustment.env
    "nri.pkg.api.v1alpha1.Mount": {"source": PATH, "options": OPTIONS},
}
"""By message type and field. Text and bytes alone can be named here; messages in fields have rows of their own."""

SOUNDS_SECRET = re.compile(
    r"^envs?$|environ|^auth$|auth_|_auth|authori|authent|token|passw|passphrase|secret|credential|private_?key|api_?key"
    r"|cookie|plaintext",
    re.IGNORECASE,
)
"""A field of such a name, of text or bytes, has a row above, KEEP if it is harmless; a test looks at all schemas."""
BY_NAME: tuple[tuple[re.Pattern[str], Rule], ...] = (
    (re.compile(r"^envs?$|environ", re.IGNORECASE), ENV),
    (SOUNDS_SECRET, WHOLE),
)
"""What goes for a field without a row: the first that its name matches."""

SECRET_NAME = re.compile(
    rb"passw(or)?d|passphrase|secret|token|credential|authorization|cookie|private[-_ ]?key|api[-_]?key|^auth$"
    rb"|last-applied-configuration|init_?data",
    re.IGNORECASE,
)
"""Names of secrets: keys of maps and of JSON, names of metadata, options of mounts. The value of kubectl's annotation
is the pod as it was applied, environment and all; Kata's init data has keys."""
ENV_NAME = re.compile(rb"^(envs?|environment)$", re.IGNORECASE)
"""Keys of JSON under which an environment stands: a list of NAME=value or of objects, or an object."""
SECRET_PATH = re.compile(rb"kubernetes\.io~(?:secret|projected)/([^\s\"]+)")
"""kubelet's folders of secret and projected volumes (tokens of service accounts); the group is what is masked."""
TRIGGERS = (b"env", b"auth", b"token", b"passw", b"passp", b"secret", b"credential", b"private", b"api", b"cookie",
            b"~projected", b"last-applied", b"init")  # fmt: skip
"""In small letters: a message with none of these in it has nothing for `JSON`, `PATH`, `OPTIONS` and `MAP`."""


def may_hold_secrets(data: bytes) -> bool:
    """Tell whether one of TRIGGERS is in the bytes."""
    small = data.lower()
    return any(word in small for word in TRIGGERS)
