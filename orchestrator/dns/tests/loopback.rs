//! Real questions over UDP and TCP on loopback, for a cluster name, for an outside name through an upstream, and
//! without one.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use waggle_dns::{DnsOptions, DnsServer, Upstream, Zone, ZoneOptions};
use waggle_model::network::{Backend, NetworkState, Protocol, Service, ServicePort};
use waggle_model::{ServiceId, TenantId};

/// A headless Service with `count` backends.
fn zone(domain: &str, count: u8) -> Zone {
    let backend = |last: u8| Backend::at([10, 244, 0, last].into(), 80);
    let service = Service {
        id: ServiceId(1),
        namespace: "shop".into(),
        name: "web".into(),
        tenant: TenantId(2),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            backends: (1..=count).map(backend).collect(),
            ..ServicePort::default()
        }],
        ..Service::default()
    };
    let state = NetworkState {
        services: [(service.id, service)].into(),
        ..NetworkState::default()
    };
    let options = ZoneOptions {
        domain: domain.into(),
        ranges: vec![],
        dns_vip: None,
    };
    Zone::build(&state, &options).unwrap()
}

/// A zone of aliases in Namespace shop: name and target.
fn aliases(rows: &[(&str, &str)]) -> Zone {
    let alias = |(index, (name, target)): (usize, &(&str, &str))| Service {
        id: ServiceId(u32::try_from(index).unwrap() + 2),
        namespace: "shop".into(),
        name: (*name).into(),
        tenant: TenantId(2),
        external_name: (*target).into(),
        ..Service::default()
    };
    let web = Service {
        id: ServiceId(1),
        namespace: "shop".into(),
        name: "web".into(),
        tenant: TenantId(2),
        vips: vec![[10, 96, 0, 7].into()],
        ..Service::default()
    };
    let all = rows.iter().enumerate().map(alias).chain([web]);
    let state = NetworkState {
        services: all.map(|service| (service.id, service)).collect(),
        ..NetworkState::default()
    };
    let options = ZoneOptions {
        domain: "cluster.local".into(),
        ranges: vec![],
        dns_vip: None,
    };
    Zone::build(&state, &options).unwrap()
}

async fn start(zone: Option<Zone>, upstream: Vec<SocketAddr>) -> SocketAddr {
    let options = DnsOptions {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        upstream: Upstream::Servers(upstream),
    };
    let server = DnsServer::bind(&options).await.unwrap();
    let address = server.addresses()[0];
    let (_sender, receiver) = watch::channel(zone);
    tokio::spawn(server.run(receiver));
    address
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_bytes().unwrap()
}

async fn ask_udp(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name), server).await.unwrap();
    let mut buffer = [0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    Message::from_bytes(&buffer[..read]).unwrap()
}

async fn ask_tcp(server: SocketAddr, name: &str) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let question = question(name);
    stream
        .write_u16(question.len().try_into().unwrap())
        .await
        .unwrap();
    stream.write_all(&question).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_bytes(&answer).unwrap()
}

#[tokio::test]
async fn cluster_names_are_answered_over_udp_and_tcp() {
    let server = start(Some(zone("cluster.local", 2)), vec![]).await;
    for answer in [
        ask_udp(server, "web.shop.svc.cluster.local.").await,
        ask_tcp(server, "web.shop.svc.cluster.local.").await,
    ] {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.answers.len(), 2);
    }
    let none = ask_udp(server, "nosuch.shop.svc.cluster.local.").await;
    assert_eq!(
        (none.metadata.response_code, none.authorities.len()),
        (ResponseCode::NXDomain, 1)
    );
    assert_eq!(
        ask_udp(server, "example.com.").await.metadata.response_code,
        ResponseCode::Refused
    );
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_udp_is_cut_and_whole_over_tcp() {
    let server = start(Some(zone("cluster.local", 100)), vec![]).await;
    assert!(
        ask_udp(server, "web.shop.svc.cluster.local.")
            .await
            .metadata
            .truncation
    );
    assert_eq!(
        ask_tcp(server, "web.shop.svc.cluster.local.")
            .await
            .answers
            .len(),
        100
    );
}

#[tokio::test]
async fn other_names_come_from_the_upstream() {
    let upstream = start(Some(zone("elsewhere.test", 1)), vec![]).await;
    let server = start(Some(zone("cluster.local", 1)), vec![upstream]).await;
    let answer = ask_udp(server, "web.shop.svc.elsewhere.test.").await;
    assert_eq!(answer.answers.len(), 1);
    assert!(!answer.metadata.authoritative);
    let none = ask_udp(server, "x.elsewhere.test.").await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn aliases_are_followed_inside_and_outside() {
    let upstream = start(Some(zone("elsewhere.test", 2)), vec![]).await;
    let zone = || {
        aliases(&[
            ("out", "web.shop.svc.elsewhere.test"),
            ("in", "web.shop.svc.cluster.local"),
            ("twice", "in.shop.svc.cluster.local"),
            ("gone", "x.elsewhere.test"),
            ("loop", "loop.shop.svc.cluster.local"),
        ])
    };
    let server = start(Some(zone()), vec![upstream]).await;
    for (name, code, records) in [
        ("out", ResponseCode::NoError, 3),
        ("in", ResponseCode::NoError, 2),
        ("twice", ResponseCode::NoError, 3),
        ("gone", ResponseCode::NXDomain, 1),
        ("loop", ResponseCode::ServFail, 0),
    ] {
        let answer = ask_udp(server, &format!("{name}.shop.svc.cluster.local.")).await;
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert_eq!(answer.answers.len(), records, "{name}");
        let first = answer.answers.first().map(|record| record.record_type());
        assert!(matches!(first, None | Some(RecordType::CNAME)), "{name}");
    }
    // Without anybody to ask, the alias alone.
    let alone = start(Some(zone()), vec![]).await;
    let answer = ask_udp(alone, "out.shop.svc.cluster.local.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn a_dead_upstream_and_an_unknown_zone_fail_with_servfail() {
    let dead = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let server = start(Some(zone("cluster.local", 1)), vec![dead]).await;
    assert_eq!(
        ask_udp(server, "example.com.").await.metadata.response_code,
        ResponseCode::ServFail
    );
    let early = start(None, vec![]).await;
    let answer = ask_udp(early, "web.shop.svc.cluster.local.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let holder = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap();
    let options = DnsOptions {
        listen: vec![address],
        upstream: Upstream::Servers(vec![]),
    };
    let error = DnsServer::bind(&options).await.err().unwrap().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("udp"),
        "{error}"
    );
}
