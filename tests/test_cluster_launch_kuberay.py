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
from templates import FULL_JOB, JOB, QUEUED_JOB, comments, header, values, words

from captune.cluster.launch.kuberay import KubeRay, kuberay
from captune.cluster.launch.options import TemplateError

JOBS = [JOB, FULL_JOB, QUEUED_JOB, replace(JOB, worker_gpus=0, gpus_per_trial=0.0, workers=1)]


def pods(options: KubeRay) -> list[dict[str, Any]]:
    """The templates of submitter, head and workers."""
    spec = yaml.safe_load(kuberay(options))["spec"]
    cluster = spec["rayClusterSpec"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [spec["submitterPodTemplate"], *(group["template"] for group in groups)]


def definition(name: str) -> jsonschema.Draft202012Validator:
    """Checks that a document is as KubeRay's definition demands, and has nothing that it would drop."""
    file = Path(os.environ["CAPTUNE_RAYJOB_CRD"]).with_name(f"ray.io_{name}.yaml")
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    [schema] = [each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1"]
    return jsonschema.Draft202012Validator(_strict(schema))


@pytest.mark.parametrize("options", JOBS)
def test_pods_are_as_kubernetes_own_schema_demands_and_have_no_other_fields(options: KubeRay) -> None:
    for template in pods(options):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif("CAPTUNE_RAYJOB_CRD" not in os.environ, reason="CAPTUNE_RAYJOB_CRD names no file of KubeRay")
def test_ray_job_and_its_cluster_are_as_kuberays_own_definitions_demand() -> None:
    jobs, clusters = definition("rayjobs"), definition("rayclusters")
    for options in JOBS:
        job = yaml.safe_load(kuberay(options))
        jobs.validate(job)
        spec = job["spec"]["rayClusterSpec"]
        cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "any"}, "spec": spec}
        clusters.validate(cluster)
        with pytest.raises(jsonschema.ValidationError):
            jobs.validate(job | {"spec": job["spec"] | {"retries": 2}})


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
    limits = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "1"}
    assert worker["resources"]["limits"] == limits
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


def test_ray_job_resumes_a_search_that_failed_on_a_new_cluster_and_takes_each_down() -> None:
    spec = yaml.safe_load(kuberay(FULL_JOB))["spec"]
    assert shlex.split(spec["entrypoint"]) == shlex.split(
        "captune search s3://bucket/data --run s3://bucket/run --resume-if-there --address auto --gpus-per-trial 0.5 "
        "--cpus-per-trial 4 --preset full --trials 50"
    )
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (5, True)
    assert (spec["activeDeadlineSeconds"], spec["preRunningDeadlineSeconds"]) == (86_400, 1_800)
    assert yaml.safe_load(kuberay(JOB))["spec"]["backoffLimit"] == 2


def test_kueue_finds_its_queue_and_priority_and_a_job_without_has_no_labels() -> None:
    assert yaml.safe_load(kuberay(QUEUED_JOB))["metadata"]["labels"] == {
        "kueue.x-k8s.io/queue-name": "gpu-queue",
        "kueue.x-k8s.io/priority-class": "low",
    }
    assert "labels" not in yaml.safe_load(kuberay(JOB))["metadata"]


def test_pods_go_to_the_nodes_that_were_named_for_them() -> None:
    submitter, head, worker = (pod["spec"] for pod in pods(FULL_JOB))
    for pod in (submitter, head):
        assert pod["nodeSelector"] == {"pool": "system"}
        assert pod["tolerations"] == [{"key": "system", "operator": "Exists"}]
    assert worker["nodeSelector"] == {"pool": "gpu", "cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert worker["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoExecute"},
    ]
    assert all("nodeSelector" not in pod["spec"] and "tolerations" not in pod["spec"] for pod in pods(JOB))


def test_all_pods_run_as_the_user_that_was_named_without_rights_beyond() -> None:
    cluster = yaml.safe_load(kuberay(FULL_JOB))["spec"]["rayClusterSpec"]
    contexts = [pod["spec"]["containers"][0]["securityContext"] for pod in pods(FULL_JOB)]
    # The autoscaler is a container of the head's pod.
    for context in (*contexts, cluster["autoscalerOptions"]["securityContext"]):
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for pod in pods(FULL_JOB):
        context = pod["spec"]["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, 1000, 1000)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "securityContext" not in kuberay(JOB)


def test_pods_hold_what_their_cluster_asks_of_all() -> None:
    for pod in pods(FULL_JOB):
        assert pod["metadata"]["annotations"] == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["spec"]["serviceAccountName"] == "searcher"
    submitter, *nodes = (pod["spec"]["containers"][0] for pod in pods(FULL_JOB))
    assert submitter["resources"]["limits"] == {"cpu": "250m", "memory": "512Mi"}
    for node in nodes:
        assert node["resources"]["limits"]["ephemeral-storage"] == "100Gi"
        assert {"name": "CAPTUNE_CACHE", "value": "/tmp/data"} in node["env"]


@pytest.mark.parametrize(
    "value", ["1e3", "0x1F", "1_000", "y", "N", "on", "null", "~", ".inf", "2026-01-01", "", "007"]
)
def test_text_that_some_reader_of_yaml_takes_for_something_else_is_quoted(value: str) -> None:
    text = kuberay(replace(JOB, env=(f"A={value}",), annotations=(f"a={value}",)))
    assert text.count(f"value: '{value}'\n") == 2
    assert text.count(f"a: '{value}'\n") == 3


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(values, values)
def test_no_variable_or_annotation_changes_the_rest_of_the_ray_job(variable: str, annotation: str) -> None:
    try:
        options = replace(JOB, env=(f"A={variable}",), annotations=(f"a={annotation}",))
    except TemplateError:
        return
    for template in pods(options):
        assert template.pop("metadata") == {"annotations": {"a": annotation}}
    for template, plain in zip(pods(options), pods(JOB), strict=True):
        [container], [bare] = template["spec"]["containers"], plain["spec"]["containers"]
        if container["name"] != "ray-job-submitter":
            assert container.pop("env") == [*bare.pop("env"), {"name": "A", "value": variable}]
        assert template["spec"] == plain["spec"]
    assert header(kuberay(options)) == len(comments(kuberay(JOB)))


@settings(deadline=None, max_examples=40)
@given(values, values, values)
def test_entrypoint_survives_the_shells_of_submitter_and_head(data: str, run: str, option: str) -> None:
    try:
        options = replace(JOB, data=data, run=run, search_options=f"--config {shlex.quote(option)}")
    except TemplateError:
        return
    text = kuberay(options)
    entrypoint = yaml.safe_load(text)["spec"]["entrypoint"]
    expected = ["captune", "search", data, "--run", run, "--resume-if-there", "--address", "auto"]
    expected += ["--gpus-per-trial", "1", "--cpus-per-trial", "4", "--config", option]
    assert words(shlex.join(words(entrypoint))) == expected  # `ray job submit` joins what its shell split
    assert header(text) == len(comments(kuberay(JOB)))
