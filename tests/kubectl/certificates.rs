//! A user's certificate, asked for, approved and used.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Cluster, eventually, run};

use crate::Kubectl;

/// A signing request in PEM, as base64, with its key in a file; made by openssl.
fn request(folder: &std::path::Path, subject: &str) -> Result<String> {
    let key = folder.join("key.pem");
    let pem = folder.join("request.pem");
    let mut command = Command::new("openssl");
    command.args([
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout",
    ]);
    command.arg(&key).arg("-out").arg(&pem);
    run(&mut command, Duration::from_secs(60))?.ok()?;
    let mut command = Command::new("base64");
    command.arg("-w0").arg(&pem);
    Ok(run(&mut command, Duration::from_secs(10))?
        .ok()?
        .trim()
        .to_owned())
}

pub(crate) fn a_user_gets_a_certificate(cluster: &Cluster) -> Result<()> {
    let kubectl = Kubectl::new(cluster, "WAGGLE_KUBECTL")?;
    let folder = tempfile::tempdir()?;
    let apply = |name: &str, subject: &str| {
        let text = format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: {{request: {}, \
             signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600}}\n",
            request(folder.path(), subject)?
        );
        let path = folder.path().join("request.yaml");
        std::fs::write(&path, text)?;
        kubectl.run(&["apply", "-f", &path.to_string_lossy()])
    };
    for group in ["system:masters", "system:waggle-servers"] {
        let refused = apply("eve", &format!("/CN=eve/O={group}"))?.fault()?;
        ensure!(refused.contains("is not allowed"), "{refused}");
    }
    apply("ann", "/CN=ann/O=devs")?.ok()?;
    let pending = kubectl.ok(&["get", "csr", "ann"])?;
    ensure!(pending.contains("Pending"), "{pending}");
    kubectl.ok(&["certificate", "approve", "ann"])?;
    eventually("the certificate", Duration::from_secs(20), || {
        let shown = kubectl.ok(&["get", "csr", "ann"])?;
        ensure!(shown.contains("Approved,Issued"), "{shown}");
        Ok(())
    })?;
    let encoded = kubectl.ok(&["get", "csr", "ann", "-o", "jsonpath={.status.certificate}"])?;
    let file = folder.path().join("certificate.b64");
    std::fs::write(&file, encoded)?;
    let mut command = Command::new("base64");
    command.arg("-d").arg(&file);
    let certificate = folder.path().join("certificate.pem");
    std::fs::write(
        &certificate,
        run(&mut command, Duration::from_secs(10))?.ok()?,
    )?;
    let server = kubectl.ok(&[
        "config",
        "view",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ])?;
    let who = kubectl.run(&[
        "--kubeconfig=/dev/null",
        "--server",
        &server,
        "--insecure-skip-tls-verify",
        "--client-certificate",
        &certificate.to_string_lossy(),
        "--client-key",
        &folder.path().join("key.pem").to_string_lossy(),
        "auth",
        "whoami",
    ])?;
    let who = who.ok()?;
    ensure!(who.contains("ann") && who.contains("devs"), "{who}");
    kubectl.ok(&["delete", "csr", "ann"])?;
    Ok(())
}
