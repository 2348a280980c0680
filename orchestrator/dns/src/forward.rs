//! Names that are not the cluster's: asked of the resolvers that the node itself uses, with a cache. Fails at once
//! when there is nobody to ask.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as NegativeAnswer, NetError};

/// Who is asked for names that are not the cluster's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// The name servers of a file like `/etc/resolv.conf`; none when there is no such file.
    File(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

/// Time for one question to one server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Names kept.
const CACHE: u64 = 10_000;

/// An answer that came from elsewhere.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) soa: Option<Record>,
}

/// Asks others; `None` inside when there are no others.
pub(crate) struct Forwarder {
    resolver: Option<TokioResolver>,
}

impl Forwarder {
    /// `own` are addresses that would lead back here.
    pub(crate) fn new(upstream: &Upstream, own: &[SocketAddr]) -> Result<Self, NetError> {
        let servers = servers(upstream);
        let servers: Vec<NameServerConfig> = servers
            .into_iter()
            .filter(|server| !own.contains(server))
            .map(|server| {
                let at_port = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![
                    at_port(ConnectionConfig::udp()),
                    at_port(ConnectionConfig::tcp()),
                ];
                NameServerConfig::new(server.ip(), true, connections)
            })
            .collect();
        if servers.is_empty() {
            return Ok(Self { resolver: None });
        }
        let mut options = ResolverOpts::default();
        options.ndots = 0;
        options.timeout = TIMEOUT;
        options.attempts = 1;
        options.cache_size = CACHE;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options);
        Ok(Self {
            resolver: Some(resolver.build()?),
        })
    }

    /// Asks for `name`. Every failure is an answer too: REFUSED when nobody can be asked, SERVFAIL when nobody
    /// answers.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType) -> Forwarded {
        let Some(resolver) = &self.resolver else {
            return Forwarded {
                code: ResponseCode::Refused,
                answers: Vec::new(),
                soa: None,
            };
        };
        let mut name = name.clone();
        name.set_fqdn(true);
        match resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => Forwarded {
                code: ResponseCode::NoError,
                answers: lookup.answers().to_vec(),
                soa: None,
            },
            Err(NetError::Dns(NegativeAnswer::NoRecordsFound(none))) => Forwarded {
                code: none.response_code,
                answers: Vec::new(),
                soa: none.soa.map(|soa| soa.into_record_of_rdata()),
            },
            Err(NetError::Dns(NegativeAnswer::ResponseCode(code))) => Forwarded {
                code,
                answers: Vec::new(),
                soa: None,
            },
            Err(error) => {
                tracing::debug!(%name, %kind, %error, "no upstream answer");
                Forwarded {
                    code: ResponseCode::ServFail,
                    answers: Vec::new(),
                    soa: None,
                }
            }
        }
    }
}

fn servers(upstream: &Upstream) -> Vec<SocketAddr> {
    match upstream {
        Upstream::Servers(servers) => servers.clone(),
        Upstream::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => nameservers(&text),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no name servers for names outside the cluster");
                Vec::new()
            }
        },
    }
}

/// The `nameserver` lines of a resolv.conf. Lines that name no address are left out, as the C library does.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter_map(|address| address.parse().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_read() {
        let text = "# comment\nsearch lan\nnameserver 10.0.0.2\nnameserver  fd00::1 \nnameserver x\noptions ndots:2";
        let expect: Vec<SocketAddr> = vec![
            "10.0.0.2:53".parse().unwrap(),
            "[fd00::1]:53".parse().unwrap(),
        ];
        assert_eq!(nameservers(text), expect);
    }

    #[tokio::test]
    async fn without_an_upstream_a_question_is_refused() {
        let own = "127.0.0.1:53".parse().unwrap();
        let forwarder = Forwarder::new(&Upstream::Servers(vec![own]), &[own]).unwrap();
        let answer = forwarder
            .ask(&Name::from_ascii("example.com.").unwrap(), RecordType::A)
            .await;
        assert_eq!(answer.code, ResponseCode::Refused);
    }
}
