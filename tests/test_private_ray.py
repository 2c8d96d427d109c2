"""What captune uses of Ray that Ray does not promise to keep: all of it is there, named here, and met in one file."""

import ast
import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster  # imports Ray, starts none of it
ROOT = Path(__file__).parent.parent
FENCED = {"cluster/nodes/ray_private.py", "tuner/ray_tune/private.py"}

# Module, and what is used of it: an attribute, one of a class, or a text of its source.
CORE = [
    ("ray._private.worker", "_worker_logs_enabled"),
    ("ray._private.utils", "set_sigterm_handler"),
    ("ray._private.worker", "'    connect(\n        _global_node,'"),
    ("ray._private.worker", "'ray._private.utils.set_sigterm_handler('"),
    ("ray._private.node", "'ray._private.utils.set_sigterm_handler('"),
    ("ray._common.utils", "get_default_system_temp_dir"),
    ("ray._raylet", "Config.initialize"),
    ("ray._raylet", "AuthenticationTokenLoader.reset_cache"),
    ("ray._private.ray_constants", "ENABLE_RAY_CLUSTER"),
    ("ray._private.services", "'if not ray_constants.ENABLE_RAY_CLUSTER:'"),
    ("ray._private.authentication.authentication_token_setup", "maybe_enable_token_auth_if_token_available"),
    ("ray._private.authentication.authentication_utils", "is_token_auth_enabled"),
    ("ray._private.services", "canonicalize_bootstrap_address"),
    ("ray._private.services", "find_node_ids"),
    ("ray._private.worker", "'job_config._py_driver_sys_path.extend('"),
    ("ray._private.gcs_utils", "create_gcs_channel"),
    ("ray._private.state", "state.get_draining_nodes"),
    ("ray._private.state", "available_resources_per_node"),
    ("ray._private.state", "actors"),
    ("ray._private.state", "state.job_table"),
    ("ray.experimental.internal_kv", "_internal_kv_put"),
    ("ray.experimental.internal_kv", "_internal_kv_get"),
    ("ray.experimental.internal_kv", "_internal_kv_list"),
    ("ray.experimental.internal_kv", "_internal_kv_del"),
    ("ray.core.generated.gcs_service_pb2", "CheckAliveRequest"),
    ("ray.core.generated.gcs_service_pb2", "CheckAliveReply.RAY_VERSION_FIELD_NUMBER"),
    ("ray.core.generated.gcs_service_pb2", "CheckAliveReply.RAYLET_ALIVE_FIELD_NUMBER"),
    ("ray.core.generated.gcs_service_pb2_grpc", "NodeInfoGcsServiceStub"),
    ("ray._private.runtime_env.packaging", "default_logger"),
    ("ray.dashboard.modules.dashboard_sdk", "logger"),
    ("ray.dashboard.modules.job.sdk", "logger"),
    ("ray.dashboard.modules.dashboard_sdk", "'self._server_ray_version'"),
]


def lacking(module: str, name: str) -> str | None:
    """A sentence that names what this Ray lacks; None where it has it."""
    try:
        value: object = importlib.import_module(module)
        if name.startswith("'"):
            source = Path(str(value.__file__)).read_text(encoding="utf-8")  # type: ignore[attr-defined]
            assert name.strip("'") in source
        else:
            for part in name.split("."):
                value = getattr(value, part)
    except (ImportError, AttributeError, AssertionError):
        import ray

        return f"Ray {ray.__version__} has no {name} in {module}, which {sorted(FENCED)} use"
    return None


@pytest.mark.parametrize(("module", "name"), CORE)
def test_private_part_that_is_used_is_there(module: str, name: str) -> None:
    assert lacking(module, name) is None, lacking(module, name)


@pytest.mark.parametrize(("module", "name"), [("ray._private.nowhere", "x"), ("ray._private.worker", "a.b"), CORE[-1]])
def test_part_that_a_new_ray_lacks_is_named_in_a_sentence(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert name in str(lacking(module, name)) and module in str(lacking(module, name))


def private_modules(path: Path) -> set[str]:
    """Modules of Ray that a file imports from and that are private, generated or of its dashboard."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    parts = {name: name.split(".") for name in names}
    return {
        name
        for name, words in parts.items()
        if words[0] == "ray"
        and any((word.startswith("_") and not word.startswith("__")) or word == "generated" for word in words)
    }


def test_every_private_module_of_the_fenced_file_is_in_the_table() -> None:
    modules = private_modules(ROOT / "cluster/nodes/ray_private.py")
    listed = {module for module, _ in CORE} | {f"{module}.{name.split('.')[0]}" for module, name in CORE}
    assert modules
    assert not {name for name in modules if not any(each.startswith(name) for each in listed)}


@pytest.mark.parametrize("folder", ["cluster", "tuner"])
def test_no_other_file_meets_a_private_part_of_ray(folder: str) -> None:
    if folder == "tuner" and not (ROOT / "tuner/ray_tune/private.py").exists():
        pytest.skip("Ray Tune's private parts are in no file of their own yet")
    words = {name.strip("'").split(".")[-1] for _, name in CORE}
    words -= {"actors", "logger", "default_logger", "initialize", "extend("}
    for path in (ROOT / folder).rglob("*.py"):
        if path.relative_to(ROOT).as_posix() not in FENCED:
            assert not private_modules(path), path
            assert not [word for word in words if word in path.read_text(encoding="utf-8")], path
