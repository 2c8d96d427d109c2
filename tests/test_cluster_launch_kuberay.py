"""RayJobs: their fields are KubeRay's, nothing breaks out of them."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from templates import FULL_JOB, JOB, comments, header, values, words

from captune.cluster.launch.kuberay import KubeRay, kuberay
from captune.cluster.launch.options import TemplateError


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """An object that has these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
PARAMETERS = {"type": "object", "additionalProperties": TEXT}
# After KubeRay's API reference of 1.6; what pods hold is Kubernetes' own.
RAY_JOB = closed(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed("name", "namespace", name=TEXT, namespace=TEXT),
    spec=closed(
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=NUMBER,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=NUMBER,
        activeDeadlineSeconds=NUMBER,
        rayClusterSpec=closed(
            "headGroupSpec",
            rayVersion=TEXT,
            authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
            enableInTreeAutoscaling=FLAG,
            autoscalerOptions=closed(idleTimeoutSeconds=NUMBER),
            headGroupSpec=closed(
                "template",
                serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                enableIngress=FLAG,
                rayStartParams=PARAMETERS,
                template={"type": "object"},
            ),
            workerGroupSpecs=array(
                closed(
                    "groupName",
                    "minReplicas",
                    "maxReplicas",
                    "template",
                    groupName=TEXT,
                    replicas=NUMBER,
                    minReplicas=NUMBER,
                    maxReplicas=NUMBER,
                    rayStartParams=PARAMETERS,
                    template={"type": "object"},
                )
            ),
        ),
    ),
)
JOBS = [JOB, FULL_JOB, replace(JOB, worker_gpus=0, gpus_per_trial=0.0, workers=1)]


@pytest.mark.parametrize("options", JOBS)
def test_ray_job_has_known_fields_of_the_right_kind_only(options: KubeRay) -> None:
    jsonschema.validate(yaml.safe_load(kuberay(options)), RAY_JOB)


@pytest.mark.parametrize("options", JOBS)
def test_pods_are_as_kubernetes_own_schema_demands_and_have_no_other_fields(options: KubeRay) -> None:
    cluster = yaml.safe_load(kuberay(options))["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif("CAPTUNE_RAYJOB_CRD" not in os.environ, reason="CAPTUNE_RAYJOB_CRD names no file of KubeRay")
@pytest.mark.parametrize("options", JOBS)
def test_ray_job_is_as_kuberays_own_definition_demands(options: KubeRay) -> None:
    definition = yaml.safe_load(Path(os.environ["CAPTUNE_RAYJOB_CRD"]).read_text())
    [schema] = [each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == "v1"]
    jsonschema.validate(yaml.safe_load(kuberay(options)), _strict(schema))


def _strict(schema: Any) -> Any:
    """The same definition, refusing fields that it does not name: an API server drops those without a word."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        name: {key: _strict(each) for key, each in value.items()} if name == "properties" else _strict(value)
        for name, value in schema.items()
    }
    if "properties" in schema and "additionalProperties" not in schema:
        strict["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return strict


def test_strict_definition_refuses_what_an_api_server_would_drop() -> None:
    definition = {"properties": {"a": {"type": "array", "items": {"properties": {"properties": {"type": "string"}}}}}}
    jsonschema.validate({"a": [{"properties": "x"}]}, _strict(definition))
    for wrong in ({"b": 1}, {"a": [{"other": 1}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, _strict(definition))


def test_ray_job_gives_workers_what_was_asked_and_the_head_no_trials() -> None:
    cluster = yaml.safe_load(kuberay(FULL_JOB))["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    [worker] = workers["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert worker["resources"]["requests"] == worker["resources"]["limits"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (2, 2, 6)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert {"name": "AWS_ENDPOINT_URL", "value": "https://minio.lan:9000"} in worker["env"]
    [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    for container in (head, worker):
        assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
        assert container["volumeMounts"] == [{"name": "storage", "mountPath": "/mnt/pictures"}]


def test_ray_job_asks_for_a_token_and_is_reached_inside_its_cluster_only() -> None:
    for options, auth in ((JOB, {"mode": "token"}), (FULL_JOB, {"mode": "token", "secretName": "ray-token"})):
        cluster = yaml.safe_load(kuberay(options))["spec"]["rayClusterSpec"]
        assert cluster["authOptions"] == auth
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert cluster["headGroupSpec"]["enableIngress"] is False


def test_ray_job_runs_the_search_once_and_takes_its_cluster_down() -> None:
    spec = yaml.safe_load(kuberay(FULL_JOB))["spec"]
    assert shlex.split(spec["entrypoint"]) == shlex.split(
        "captune search s3://bucket/data --run s3://bucket/run --address auto --gpus-per-trial 0.5 --cpus-per-trial 4 "
        "--preset full --trials 50"
    )
    assert spec["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] == 86_400


@settings(deadline=None, max_examples=40)
@given(values, values, values)
def test_entrypoint_survives_the_shells_of_submitter_and_head(data: str, run: str, option: str) -> None:
    try:
        options = replace(JOB, data=data, run=run, search_options=f"--config {shlex.quote(option)}")
    except TemplateError:
        return
    text = kuberay(options)
    entrypoint = yaml.safe_load(text)["spec"]["entrypoint"]
    expected = ["captune", "search", data, "--run", run, "--address", "auto"]
    expected += ["--gpus-per-trial", "1", "--cpus-per-trial", "4", "--config", option]
    assert words(shlex.join(words(entrypoint))) == expected  # `ray job submit` joins what its shell split
    assert header(text) == len(comments(kuberay(JOB)))
