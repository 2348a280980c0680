"""Kubernetes' Python client: lists, creates, patches, watches, reaches into a pod, deletes. Argument: a kubeconfig."""

import sys
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python"


def check(holds, evidence):
    if not holds:
        raise SystemExit(f"not as it should be: {evidence}")


def refused(call, status, reason):
    try:
        call()
    except ApiException as error:
        check(error.status == status and reason in error.body, f"{error.status} {error.body}")
        return
    raise SystemExit(f"not refused with {status} {reason}")


def deployment(replicas):
    container = client.V1Container(
        name="web",
        image="shop/client:1.0",
        command=["sh", "-c", "echo started; mkdir /tmp/www; echo a page > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"],
    )
    labels = {"app": "web"}
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web", labels=labels),
        spec=client.V1DeploymentSpec(
            replicas=replicas,
            selector=client.V1LabelSelector(match_labels=labels),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels=labels),
                spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=0),
            ),
        ),
    )


def workload(apps, core):
    made = apps.create_namespaced_deployment(NAMESPACE, deployment(1))
    check(made.spec.strategy.type == "RollingUpdate" and made.metadata.uid, made)
    refused(lambda: apps.create_namespaced_deployment(NAMESPACE, deployment(1)), 409, "AlreadyExists")
    refused(lambda: apps.read_namespaced_deployment("none", NAMESPACE), 404, "NotFound")
    wrong = deployment(-1)
    wrong.metadata.name = "wrong"
    refused(lambda: apps.create_namespaced_deployment(NAMESPACE, wrong), 422, "spec.replicas")

    watching = watch.Watch()
    for event in watching.stream(apps.list_namespaced_deployment, NAMESPACE, timeout_seconds=60):
        check(event["type"] in ("ADDED", "MODIFIED"), event)
        # A fresh object has an empty status, never none.
        if event["object"].status.available_replicas == 1:
            watching.stop()
    seen = apps.read_namespaced_deployment("web", NAMESPACE)
    check(seen.status.available_replicas == 1, seen.status)

    patched = apps.patch_namespaced_deployment("web", NAMESPACE, {"metadata": {"labels": {"team": "shop"}}})
    check(patched.metadata.labels == {"app": "web", "team": "shop"}, patched.metadata)
    steps = [{"op": "remove", "path": "/metadata/labels/team"}]
    patched = apps.patch_namespaced_deployment("web", NAMESPACE, steps)
    check(patched.metadata.labels == {"app": "web"}, patched.metadata)
    scale = apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 2}})
    check(scale.spec.replicas == 2, scale)
    stale = seen
    stale.spec.replicas = 5
    refused(lambda: apps.replace_namespaced_deployment("web", NAMESPACE, stale), 409, "Conflict")

    deadline = time.monotonic() + 60
    while True:
        pods = core.list_namespaced_pod(NAMESPACE, label_selector="app=web", field_selector="status.phase=Running")
        if len(pods.items) == 2:
            return pods.items[0].metadata.name
        check(time.monotonic() < deadline, pods)
        time.sleep(0.1)


def into(core, pod):
    check(core.read_namespaced_pod_log(pod, NAMESPACE) == "started\n", "log")
    open_stream = lambda command, **more: stream(
        core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=command, stderr=True, stdout=True, tty=False, **more
    )
    check(open_stream(["echo", "out"], stdin=False) == "out\n", "exec")
    talk = open_stream(["sh", "-c", "read line; echo got $line; echo err >&2; exit 3"], stdin=True, _preload_content=False)
    talk.write_stdin("words\n")
    talk.run_forever(timeout=30)
    check(talk.read_stdout() == "got words\n" and talk.read_stderr() == "err\n", "exec with input")
    check(talk.returncode == 3, talk.returncode)
    ports = portforward(core.connect_get_namespaced_pod_portforward, pod, NAMESPACE, ports="8080")
    port = ports.socket(8080)
    port.setblocking(True)
    port.sendall(b"GET / HTTP/1.0\r\n\r\n")
    page = b""
    while more := port.recv(4096):
        page += more
    check(page.endswith(b"a page\n") and ports.error(8080) is None, page)


def many(core):
    for number in range(5):
        made = client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="many-", labels={"set": "many"}), data={"n": str(number)})
        core.create_namespaced_config_map(NAMESPACE, made)
    found, more = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="set=many", limit=2, _continue=more)
        found += [one.data["n"] for one in page.items]
        more = page.metadata._continue
        if not more:
            break
    check(sorted(found) == ["0", "1", "2", "3", "4"], found)
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="set=many")
    events = watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=2)
    check([event["type"] for event in events] == ["DELETED"] * 5, "a watch from before the deletion")


def without_types(api):
    objects = dynamic.DynamicClient(api)
    maps = objects.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": NAMESPACE}, "data": {"a": "1"}}
    made = maps.server_side_apply(body=body, namespace=NAMESPACE, name="applied", field_manager="one")
    check(made.data.a == "1" and made.metadata.managedFields[0].operation == "Apply", made)
    body["data"]["a"] = "2"
    try:
        maps.server_side_apply(body=body, namespace=NAMESPACE, name="applied", field_manager="two")
        check(False, "another's field was taken without force")
    except dynamic.exceptions.ConflictError as error:
        check(".data.a" in str(error.body), error.body)
    made = maps.server_side_apply(body=body, namespace=NAMESPACE, name="applied", field_manager="two", force_conflicts=True)
    check(made.data.a == "2", made)
    maps.delete(name="applied", namespace=NAMESPACE)
    utils.create_from_dict(api, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": NAMESPACE}, "stringData": {"k": "v"}})
    secret = objects.resources.get(api_version="v1", kind="Secret").get(name="s", namespace=NAMESPACE)
    check(secret.data.k == "dg==", secret)


def main():
    config.load_kube_config(sys.argv[1])
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    check(client.VersionApi().get_code().major == "1", "version")
    check([node.metadata.name for node in core.list_node().items] == ["node1"], "nodes")
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    pod = workload(apps, core)
    into(core, pod)
    many(core)
    without_types(client.ApiClient())
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
    core.delete_namespace(NAMESPACE)
    for event in watch.Watch().stream(core.list_namespace, field_selector=f"metadata.name={NAMESPACE}", timeout_seconds=60):
        if event["type"] == "DELETED":
            break
    refused(lambda: core.read_namespace(NAMESPACE), 404, "NotFound")
    print("done")


main()
