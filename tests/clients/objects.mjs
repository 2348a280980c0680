// Kubernetes' JavaScript client: lists, creates, patches, watches, reaches into a pod, deletes. Arguments: a kubeconfig, the client's module.

import net from "node:net";
import { PassThrough } from "node:stream";
import { pathToFileURL } from "node:url";

const [kubeconfig, module] = process.argv.slice(2);
const k8s = await import(pathToFileURL(module));
const namespace = "javascript";

function check(holds, evidence) {
  if (!holds) throw new Error(`not as it should be: ${typeof evidence === "string" ? evidence : JSON.stringify(evidence)}`);
}

async function refused(call, code, reason) {
  try {
    await call();
  } catch (error) {
    check(error.code === code && error.body.includes(reason), `${error.code} ${error.body}`);
    return;
  }
  throw new Error(`not refused with ${code} ${reason}`);
}

function until(what, ask) {
  const limit = Date.now() + 60_000;
  return new Promise((resolve, reject) => {
    const again = async () => {
      const found = await ask();
      if (found) return resolve(found);
      if (Date.now() > limit) return reject(new Error(`not within a minute: ${what}`));
      setTimeout(() => again().catch(reject), 100);
    };
    again().catch(reject);
  });
}

const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

const nodes = await core.listNode();
check(nodes.items.map((node) => node.metadata.name).join() === "node1", nodes);
await core.createNamespace({ body: { metadata: { name: namespace } } });

// An informer, over everything that follows.
const seen = [];
const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: "set=js" });
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, "set=js");
for (const kind of ["add", "update", "delete"]) informer.on(kind, (one) => seen.push(`${kind} ${one.metadata.name} ${one.data?.a}`));
informer.on("error", (error) => { if (error.type !== "aborted") throw error; });
await informer.start();

const map = (name) => ({ metadata: { name, labels: { set: "js" } }, data: { a: "1" } });
await core.createNamespacedConfigMap({ namespace, body: map("one") });
await refused(() => core.createNamespacedConfigMap({ namespace, body: map("one") }), 409, "AlreadyExists");
await refused(() => core.readNamespacedConfigMap({ namespace, name: "none" }), 404, "NotFound");
const patched = await core.patchNamespacedConfigMap(
  { namespace, name: "one", body: [{ op: "replace", path: "/data/a", value: "2" }] },
);
check(patched.data.a === "2", patched);
const applied = await objects.patch(
  { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "one", namespace }, data: { b: "3" } },
  undefined, undefined, "js", undefined, k8s.PatchStrategy.ServerSideApply,
);
check(applied.data.a === "2" && applied.data.b === "3", applied);
check(applied.metadata.managedFields.some((one) => one.manager === "js" && one.operation === "Apply"), applied.metadata);
const merged = await objects.patch(
  { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "one", namespace }, data: { b: null } },
  undefined, undefined, undefined, undefined, k8s.PatchStrategy.MergePatch,
);
check(merged.data.b === undefined, merged);
const replaced = { ...merged, metadata: { ...merged.metadata, resourceVersion: applied.metadata.resourceVersion } };
await refused(() => core.replaceNamespacedConfigMap({ namespace, name: "one", body: replaced }), 409, "Conflict");
await core.deleteNamespacedConfigMap({ namespace, name: "one" });
await until("the informer has seen it", () => seen.at(-1)?.startsWith("delete"));
check(seen[0] === "add one 1" && seen.at(-1) === "delete one 2" && seen.length === 5, seen);
await informer.stop();

// A workload, watched until it is there.
const labels = { app: "web" };
const script = "echo started; mkdir /tmp/www; echo a page > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
const container = { name: "web", image: "shop/client:1.0", command: ["sh", "-c", script] };
const template = { metadata: { labels }, spec: { containers: [container], terminationGracePeriodSeconds: 0 } };
const deployment = { metadata: { name: "web" }, spec: { replicas: 1, selector: { matchLabels: labels }, template } };
await apps.createNamespacedDeployment({ namespace, body: deployment });
await new Promise((resolve, reject) => {
  let controller;
  new k8s.Watch(config).watch(`/apis/apps/v1/namespaces/${namespace}/deployments`, { timeoutSeconds: 60 }, (type, object) => {
    check(["ADDED", "MODIFIED", "BOOKMARK"].includes(type), type);
    if (object.status?.availableReplicas === 1) { resolve(); controller?.abort(); }
  }, reject).then((made) => { controller = made; }, reject);
});
const pods = await core.listNamespacedPod({ namespace, labelSelector: "app=web" });
const pod = pods.items[0].metadata.name;
check(pods.items[0].status.startTime instanceof Date, pods.items[0].status);
check(await core.readNamespacedPodLog({ namespace, name: pod }) === "started\n", "log");

// Into it.
const stdin = new PassThrough(), stdout = new PassThrough(), stderr = new PassThrough();
const texts = { stdout: "", stderr: "" };
stdout.on("data", (bytes) => { texts.stdout += bytes; });
stderr.on("data", (bytes) => { texts.stderr += bytes; });
const status = await new Promise((resolve, reject) => {
  const command = ["sh", "-c", "read line; echo got $line; echo err >&2; exit 3"];
  new k8s.Exec(config).exec(namespace, pod, "web", command, stdout, stderr, stdin, false, resolve).catch(reject);
  stdin.write("words\n");
});
check(status.status === "Failure" && status.details.causes[0].message === "3", status);
check(texts.stdout === "got words\n" && texts.stderr === "err\n", texts);

const forward = new k8s.PortForward(config);
const server = net.createServer((socket) => { forward.portForward(namespace, pod, [8080], socket, null, socket); });
await new Promise((resolve) => { server.listen(0, "127.0.0.1", resolve); });
const page = await new Promise((resolve, reject) => {
  let text = "";
  const socket = net.connect(server.address().port, "127.0.0.1", () => socket.write("GET / HTTP/1.0\r\n\r\n"));
  socket.on("data", (bytes) => { text += bytes; if (text.endsWith("a page\n")) resolve(text); });
  socket.on("close", () => resolve(text));
  socket.on("error", reject);
});
check(page.endsWith("a page\n"), page);
server.close();

await core.deleteNamespace({ name: namespace });
await until("the namespace is gone", () => core.readNamespace({ name: namespace }).then(() => false, (error) => error.code === 404));
console.log("done");
process.exit(0);
