//! kubectl inside a pod: it finds the API by the pod's environment, trusts it by the cluster's authority, and may what the
//! pod's ServiceAccount may.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually};

use super::Kubectl;

const SETTLE: Duration = Duration::from_secs(60);

const MANIFEST: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: inside}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: inside}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: inside}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: inside}]
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: inside, labels: {app: caller}}
spec:
  serviceAccountName: reader
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: shop/client:1.0
      command: [sleep, infinity]
      volumeMounts: [{name: kubectl, mountPath: /kubectl}, {name: mixed, mountPath: /mixed}]
  volumes:
    - {name: kubectl, hostPath: {path: KUBECTL, type: File}}
    - name: mixed
      projected:
        sources:
          - serviceAccountToken: {path: vault, audience: vault, expirationSeconds: 600}
          - configMap: {name: kube-root-ca.crt}
          - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: silent, namespace: inside}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "shop/client:1.0", command: [sleep, infinity]}]
"#;

pub(crate) fn roles_decide(cluster: &Cluster) -> Result<()> {
    let binary = std::env::var("WAGGLE_KUBECTL").context("WAGGLE_KUBECTL is not set")?;
    let kubectl = Kubectl::new(cluster, "WAGGLE_KUBECTL")?;
    kubectl.ok(&["create", "namespace", "inside"])?;
    cluster.apply(&MANIFEST.replace("KUBECTL", &binary))?.ok()?;
    kubectl.ok(&[
        "-n",
        "inside",
        "wait",
        "--for=condition=Ready",
        "pod",
        "--all",
        "--timeout=60s",
    ])?;
    let shell = |pod: &str, script: &str| cluster.exec("inside", pod, &["sh", "-c", script]);

    let pods = shell("caller", "/kubectl get pods -o name")?.ok()?;
    ensure!(
        pods.contains("pod/caller") && pods.contains("pod/silent"),
        "{pods}"
    );
    let by_name = |token: &str| {
        let place = "/var/run/secrets/kubernetes.io/serviceaccount";
        let token = token.replace("PLACE", place);
        let script = format!(
            "/kubectl --server https://kubernetes.default.svc --certificate-authority={place}/ca.crt \
             --token=$(cat {token}) -n $(cat {place}/namespace) get pods -o name"
        );
        shell("caller", &script)
    };
    by_name("PLACE/token")?.ok()?;
    let me = shell("caller", "/kubectl auth whoami")?.ok()?;
    ensure!(
        me.contains("system:serviceaccount:inside:reader") && me.contains("caller"),
        "{me}"
    );
    let secrets = shell("caller", "/kubectl get secrets")?.fault()?;
    ensure!(secrets.contains("cannot list resource"), "{secrets}");
    let elsewhere = shell("caller", "/kubectl get pods -n default")?.fault()?;
    ensure!(elsewhere.contains("cannot list resource"), "{elsewhere}");

    // A token for somebody else is none for the API; the other sources lie beside it.
    let vault = by_name("/mixed/vault")?.fault()?;
    ensure!(
        vault.contains("Unauthorized") || vault.contains("logged in"),
        "{vault}"
    );
    let mixed = shell("caller", "cat /mixed/labels; cat /mixed/ca.crt")?.ok()?;
    ensure!(
        mixed.contains("app=\"caller\"") && mixed.contains("BEGIN CERTIFICATE"),
        "{mixed}"
    );

    let nothing = shell("silent", "ls /var/run/secrets/kubernetes.io/serviceaccount")?;
    nothing.fault()?;

    // The token goes with its pod.
    let token = shell(
        "caller",
        "cat /var/run/secrets/kubernetes.io/serviceaccount/token",
    )?
    .ok()?;
    kubectl.ok(&["-n", "inside", "delete", "pod", "caller"])?;
    eventually("the token of a pod that is gone is refused", SETTLE, || {
        let refused = kubectl.run(&["auth", "whoami", "--token", token.trim()])?;
        let said = format!("{}{}", refused.stdout, refused.stderr);
        ensure!(!said.contains("inside:reader"), "{said}");
        Ok(())
    })?;
    kubectl.ok(&["delete", "namespace", "inside", "--timeout=60s"])?;
    Ok(())
}
