//! Thresholds as a table, and real probes against listeners on loopback.

use std::sync::atomic::{AtomicI32, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

#[test]
fn thresholds_decide() {
    // success threshold, failure threshold, healthy at first, answers, what the probe says after each.
    for (success, failure, first, answers, expect) in [
        (1, 3, true, "001000", "111110"),
        (2, 1, false, "110111", "010011"),
        (1, 1, false, "01", "01"),
        (3, 2, false, "11001110010", "00000011000"),
    ] {
        let probe = Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        };
        let mut tally = Tally::new(&probe, first);
        let mut said = String::new();
        for answer in answers.chars() {
            tally.count(answer == '1');
            said.push(if tally.healthy { '1' } else { '0' });
        }
        assert_eq!(said, expect, "{success} {failure} {answers}");
    }
}

struct Exits(AtomicI32);

impl Asker for Exits {
    fn exec(
        &self,
        _: &str,
        _: Vec<String>,
        _: Duration,
    ) -> BoxFuture<'_, Result<(i32, String), String>> {
        let code = self.0.load(Ordering::Relaxed);
        async move { Ok((code, "no\n".to_owned())) }.boxed()
    }
}

fn container(probes: serde_json::Value) -> Container {
    let mut value = json!({"name": "main", "image": "i"});
    value
        .as_object_mut()
        .unwrap()
        .extend(probes.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

fn start(
    container: &Container,
    code: i32,
) -> (mpsc::UnboundedReceiver<Report>, tokio::task::AbortHandle) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let asker = Arc::new(Exits(AtomicI32::new(code)));
    let report = move |report| drop(sender.send(report));
    (
        receiver,
        watch(container, "127.0.0.1".parse().unwrap(), asker, report).unwrap(),
    )
}

/// Answers each connection with `answer`, for ever.
async fn http_server(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn http_probes_read_the_status_code() {
    for (answer, ready) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno", false),
    ] {
        let port = http_server(answer).await;
        let probe = json!({"readinessProbe": {"httpGet": {"port": "web", "path": "healthz"}},
            "ports": [{"name": "web", "containerPort": port}]});
        let (mut reports, handle) = start(&container(probe), 0);
        let first = reports.recv().await.unwrap();
        assert!(first.verdict.started && !first.verdict.ready);
        let second = reports.recv().await.unwrap();
        assert_eq!(second.verdict.ready, ready, "{answer}");
        assert_eq!(second.failure.is_none(), ready);
        handle.abort();
    }
}

#[tokio::test]
async fn tcp_probes_need_a_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = container(json!({"readinessProbe": {"tcpSocket": {"port": port}}}));
    let (mut reports, _handle) = start(&probe, 0);
    assert!(!reports.recv().await.unwrap().verdict.ready);
    assert!(reports.recv().await.unwrap().verdict.ready);
    drop(listener);
    let (mut reports, _handle) = start(&probe, 0);
    reports.recv().await.unwrap();
    let failure = reports.recv().await.unwrap().failure.unwrap();
    assert!(
        failure.starts_with("Readiness probe failed: dial tcp 127.0.0.1:"),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_that_fails_for_good_ends_the_container() {
    let probe = json!({"startupProbe": {"exec": {"command": ["x"]}, "failureThreshold": 2, "periodSeconds": 5},
        "livenessProbe": {"exec": {"command": ["x"]}}});
    let (mut reports, _handle) = start(&container(probe), 1);
    let first = reports.recv().await.unwrap();
    assert!(first.verdict.alive && !first.verdict.started);
    let second = reports.recv().await.unwrap();
    assert!(!second.verdict.alive);
    assert_eq!(
        second.failure.unwrap(),
        "Startup probe failed: command exited with 1: no"
    );
    assert!(reports.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn liveness_needs_all_of_its_failures() {
    let probe = json!({"livenessProbe": {"exec": {"command": ["x"]}, "initialDelaySeconds": 3}});
    let (mut reports, _handle) = start(&container(probe), 1);
    let mut alive = Vec::new();
    for _ in 0..4 {
        alive.push(reports.recv().await.unwrap().verdict.alive);
    }
    assert_eq!(alive, [true, true, true, false]);
}
